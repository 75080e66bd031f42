"""Health checks as they are made: of real sockets on loopback, told to the loop and to other minions."""

import asyncio
import resource
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from svcnet.model.check import Check, Probe
from svcnet.model.errors import StoreError
from svcnet.model.event import Verdict
from svcnet.model.meta import Key
from svcnet.model.snapshot import Delta, PortKey, ServedPort, Snapshot
from svcnet.prober import MOST_AT_ONCE, Prober
from svcnet.proxy import header
from tests.harness.ports import unused

WEB = Key("Service", "default", "web")
PORT = PortKey("default", "web", "TCP", 80, 4)
CHECK = Check(interval_seconds=0.1, rise=1, fall=1)
DEADLINE_SECONDS = 60.0


class Board:
    """What was told, to the loop and to other minions, and the first few times can't be."""

    def __init__(self, refusals: int = 0) -> None:
        self.failing: set[tuple[str, int]] = set()
        self.said: dict[tuple[str, int], str] = {}
        self.state = ""
        self.closed = False
        self._refusals = refusals

    def tell(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            change = self.failing.add if verdict.why else self.failing.discard
            change((verdict.address, verdict.port))

    def say(self, failing: Mapping[tuple[Key, str, int], str]) -> None:
        if failing and self._refusals:
            self._refusals -= 1
            raise StoreError("away")
        self.said = {where[1:]: why for where, why in failing.items()}

    def close(self) -> None:
        self.closed = True


async def met(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - it is several boards that change, from threads too
            await asyncio.sleep(0.01)


def served(*probes: Probe) -> ServedPort:
    return ServedPort(PORT, "", "10.0.0.5", (), probes=probes)


def test_a_port_that_closes_and_opens_is_told_to_the_loop_and_if_it_is_our_own_to_other_minions() -> None:
    async def scenario() -> None:
        board, number = Board(), unused()
        own, nobodys = Probe("127.0.0.1", number, CHECK, own=True), Probe("127.0.0.2", number, CHECK)
        port = served(own, nobodys)
        prober = Prober(lambda _: (port,), board.tell, lambda state: setattr(board, "state", state), board)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        await met(lambda: board.failing == {("127.0.0.1", number), ("127.0.0.2", number)})
        await met(lambda: board.said == {("127.0.0.1", number): "connection refused"})
        await met(lambda: board.state == "running: 2 checks, 2 failing")
        with socket.create_server(("127.0.0.1", number)):
            await met(lambda: board.failing == {("127.0.0.2", number)} and not board.said)
        await met(lambda: board.said)
        port = served()
        prober.publish(Snapshot(), Delta(2, changed=((served(own, nobodys), port),)))
        await met(lambda: not board.failing and not board.said)
        await met(lambda: board.state.startswith("off"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert board.closed

    asyncio.run(scenario())


def test_checks_go_on_while_other_minions_can_not_be_told() -> None:
    async def scenario() -> None:
        board, number = Board(refusals=1), unused()
        port = served(Probe("127.0.0.1", number, CHECK, own=True))
        prober = Prober(lambda _: (port,), board.tell, lambda _: None, board)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        await met(lambda: board.failing)
        with socket.create_server(("127.0.0.1", number)):
            await met(lambda: not board.failing)
        await met(lambda: board.said)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_bug_that_one_endpoint_meets_ends_no_check_of_another(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        board, number = Board(), unused()
        port = served(Probe("127.0.0.1", 1 << 16, CHECK), Probe("127.0.0.1", number, CHECK))  # no such port is read
        prober = Prober(lambda _: (port,), board.tell, lambda _: None)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        await met(lambda: board.failing == {("127.0.0.1", number)} and caplog.records)
        failed = prober.failed
        await met(lambda: prober.failed > failed + 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert caplog.text.count("OverflowError") == 1, "once, not with each check"


class Listener:
    """A server on loopback that keeps what it hears, and answers it all the same."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.heard: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.read(4096))
        writer.write(self._answer)
        writer.close()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)


@pytest.mark.parametrize("path", ["", "/ready"])
@pytest.mark.parametrize("form", ["", "v1", "v2"])
def test_an_endpoint_that_expects_a_proxy_header_is_told_that_it_is_a_check(path: str, form: str) -> None:
    async def scenario() -> None:
        board, listener = Board(), Listener(b"HTTP/1.1 204 No Content\r\n\r\n")
        async with await listener.listen() as server:
            number = server.sockets[0].getsockname()[1]
            port = served(Probe("127.0.0.1", number, CHECK._replace(path=path, introduction=form)))
            prober = Prober(lambda _: (port,), board.tell, lambda _: None)
            prober.publish(Snapshot(), Delta(1, added=(port,)))
            running = asyncio.create_task(prober.run())
            await met(lambda: len(listener.heard) > 1 and prober.passed > 1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        rest = listener.heard[0]
        if form:
            said, length = header.read(rest) or (None, 0)
            assert said == header.NO_ADDRESSES, "who speaks for himself names no addresses"
            assert (rest[:length] == header.LOCAL) is (form == "v2")
            rest = rest[length:]
        assert rest.startswith(f"GET {path} HTTP/1.1\r\n".encode()) if path else not rest
        assert not board.failing

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404"),
        (b"SSH-2.0-x\r\n", "no HTTP answer: it begins otherwise"),
        (b"HTTP/1.1 200 OK\r\n", "no HTTP answer: it ended too soon"),
        (b"", "no HTTP answer: it ended too soon"),
    ],
)
def test_an_answer_that_is_no_pass_is_why(answer: bytes, why: str) -> None:
    async def scenario() -> None:
        board, listener = Board(), Listener(answer)
        async with await listener.listen() as server:
            port = served(Probe("127.0.0.1", server.sockets[0].getsockname()[1], CHECK._replace(path="/"), own=True))
            prober = Prober(lambda _: (port,), board.tell, lambda _: None, board)
            prober.publish(Snapshot(), Delta(1, added=(port,)))
            running = asyncio.create_task(prober.run())
            await met(lambda: list(board.said.values()) == [why])
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["", "/ready"])
def test_without_a_file_descriptor_left_nothing_is_said_of_an_endpoint(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        board, number = Board(), unused()
        port = served(Probe("127.0.0.1", number, CHECK._replace(path=path)))
        ports = [port]
        prober = Prober(lambda _: tuple(ports), board.tell, lambda _: None)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        await met(lambda: board.failing)  # what it needs is imported and open by then
        ports.clear()
        prober.publish(Snapshot(), Delta(2, removed=(port,)))
        assert not board.failing
        with no_descriptors():
            ports.append(port)
            prober.publish(Snapshot(), Delta(3, added=(port,)))
            await met(lambda: "too many open files" in caplog.text)
        assert not board.failing
        await met(lambda: board.failing)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


@contextmanager
def no_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/dev/null", "rb") as first:  # noqa: PTH123 - the lowest number that is free
        resource.setrlimit(resource.RLIMIT_NOFILE, (first.fileno(), limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_script_that_is_missing_is_named_with_its_services_until_it_can_be_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        board = Board()
        ask = CHECK._replace(script="ready")
        port = served(Probe("127.0.0.1", 80, ask), Probe("127.0.0.2", 80, ask), Probe("127.0.0.1", 1, CHECK))
        prober = Prober(lambda _: (port,), board.tell, lambda _: None, scripts=tmp_path)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        await met(prober.left_out)
        (found,) = prober.left_out()
        assert found.what == "svcnet.dev/health of default/web"
        assert found.reason.startswith(f"script:ready: {tmp_path}/ready: no such file")
        await met(lambda: prober.failed > 1)
        assert (prober.passed, board.failing) == (0, {("127.0.0.1", 1)})
        script = tmp_path / "new"
        script.write_text('#!/bin/sh\ntest "$1" != 127.0.0.2 || { echo behind >&2; exit 1; }\n')
        script.chmod(0o755)
        script.rename(tmp_path / "ready")
        await met(lambda: board.failing == {("127.0.0.2", 80), ("127.0.0.1", 1)})
        await met(lambda: prober.passed)
        assert prober.left_out() == ()
        assert caplog.text.count("can't be made") == 1, "though it was tried again and again"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_scripts_that_hang_keep_no_other_check_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        board, number = Board(), unused()
        (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 1000\n")
        (tmp_path / "hangs").chmod(0o755)
        ask = CHECK._replace(script="hangs", timeout_seconds=1000.0)
        hanging = [Probe(f"127.0.1.{n}", 80, ask) for n in range(MOST_AT_ONCE + 1)]
        port = served(*hanging, Probe("127.0.0.1", number, CHECK))
        prober = Prober(lambda _: (port,), board.tell, lambda _: None, scripts=tmp_path)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        await met(lambda: board.failing == {("127.0.0.1", number)})
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(5))
def test_an_end_that_comes_as_records_come_is_not_lost(turns: int) -> None:
    async def scenario() -> None:
        port = served(Probe("127.0.0.1", 1, CHECK._replace(interval_seconds=1000.0)))
        prober = Prober(lambda _: (port,), Board().tell, lambda _: None)
        prober.publish(Snapshot(), Delta(1, added=(port,)))
        running = asyncio.create_task(prober.run())
        for _ in range(5):
            await asyncio.sleep(0)  # until it waits for the first check
        prober.publish(Snapshot(), Delta(2, added=(port,)))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait([running])

    asyncio.run(scenario())
