"""Health checks by the operator's scripts: real ones, that pass, fail, hang, leave others behind, or say too much."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from svcnet.model.check import Check, Probe
from svcnet.model.errors import UnmadeError
from svcnet.model.meta import Key
from svcnet.script import MOST_AT_ONCE, Scripts
from tests.harness.until import until

WEB, API = Key("Service", "default", "web"), Key("Service", "default", "api")
LONG_SECONDS = 60.0
Result = TypeVar("Result")


class Shelf:
    """A directory of scripts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "made").mkdir()

    def put(self, name: str, text: str, mode: int = 0o755, by: str = "#!/bin/sh") -> Path:
        path = self.path / "made" / name
        path.write_text(f"{by}\n{text}\n")
        path.chmod(mode)
        return path

    def scripts(self) -> Scripts:
        return Scripts(self.path / "made")

    def ask(self, name: str, seconds: float = LONG_SECONDS) -> str:
        return run(lambda: self.asked(self.scripts(), name, seconds))

    async def asked(self, scripts: Scripts, name: str, seconds: float = LONG_SECONDS) -> str:
        try:
            return await scripts.ask(probe(name, seconds), [WEB, API])
        finally:
            scripts.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def probe(name: str, seconds: float = LONG_SECONDS) -> Probe:
    return Probe("10.1.0.5", 8080, Check(timeout_seconds=seconds, script=name))


def run(act: Callable[[], Awaitable[Result]]) -> Result:
    async def scenario() -> Result:
        return await act()

    return asyncio.run(scenario())


async def met(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG_SECONDS):
        while not condition():  # noqa: ASYNC110 - it is other processes that change it
            await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def test_exit_0_passes_whatever_was_said(shelf: Shelf) -> None:
    shelf.put("fine", "echo hello; echo warning >&2")
    assert shelf.ask("fine") == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exit 3", "exit code 3"),
        ("echo 'replica is 80 s behind' >&2; echo more >&2; exit 1", "replica is 80 s behind"),
        ("echo; echo on stdout; exit 1", "exit code 1"),
        ("printf '\\n  late\\n' >&2; exit 1", "late"),
        ("printf 'a\\033[2Jb\\377' >&2; exit 1", "a?[2Jb\N{REPLACEMENT CHARACTER}"),
        ("kill -9 $$", "ended by signal 9"),
        ("head -c 300 /dev/zero | tr '\\0' x >&2; exit 1", "x" * 200),
    ],
)
def test_the_reason_is_the_first_line_on_stderr_or_the_exit_code(shelf: Shelf, text: str, why: str) -> None:
    shelf.put("fails", text)
    assert shelf.ask("fails") == why


def test_all_that_a_script_is_told_is_whom_to_ask(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVCNET_ETCD_PASSWORD", "secret")
    out = shelf.path / "told"
    shelf.put("tell", f'(echo "$# $1 $2"; pwd; env; readlink /proc/self/fd/0) > {out}')
    assert shelf.ask("tell") == ""
    first, where, *rest = out.read_text().splitlines()
    assert (first, where, rest.pop()) == ("2 10.1.0.5 8080", "/", "/dev/null")
    told = dict(line.partition("=")[::2] for line in rest)
    assert {name: told[name] for name in told if name.startswith("ENDPOINT")} == {
        "ENDPOINT_ADDRESS": "10.1.0.5",
        "ENDPOINT_PORT": "8080",
        "ENDPOINT_SERVICES": "default/web default/api",
    }
    assert set(told) - {"ENDPOINT_ADDRESS", "ENDPOINT_PORT", "ENDPOINT_SERVICES"} <= {
        "PATH",
        "LANG",
        "PWD",
        "_",
        "OLDPWD",
        "SHLVL",
    }


def test_no_open_file_of_the_daemon_s_is_passed_on(shelf: Shelf) -> None:
    shelf.put("count", "test $(ls /proc/self/fd | wc -l) -le 4")  # 0, 1, 2, and that of the directory
    with socket.create_server(("127.0.0.1", 0)) as server, (shelf.path / "made" / "count").open() as file:
        os.set_inheritable(server.fileno(), True)
        os.set_inheritable(file.fileno(), True)
        assert shelf.ask("count") == ""


def test_one_that_hangs_is_ended_with_all_that_it_has_begun(shelf: Shelf) -> None:
    pids = shelf.path / "pids"
    shelf.put("hangs", f"sleep 1000 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; trap '' TERM; wait; sleep 1000")
    found: list[int] = []

    async def scenario() -> str:
        scripts = shelf.scripts()
        asking = asyncio.create_task(scripts.ask(probe("hangs", 0.01), [WEB]))
        why = await asking
        if not pids.exists():  # a busy machine: it was ended before it began
            asking = asyncio.create_task(scripts.ask(probe("hangs", LONG_SECONDS), [WEB]))
            await met(pids.exists)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        found.extend(map(int, pids.read_text().split()))
        scripts.close()
        return why

    assert asyncio.run(scenario()) == "no answer in time"
    until(lambda: not any(map(runs, found)))


def test_whom_it_leaves_behind_is_ended_with_it(shelf: Shelf) -> None:
    pids = shelf.path / "pids"
    shelf.put("leaves", f"sleep 1000 & echo $! > {pids}")
    assert shelf.ask("leaves") == "", "though the other still has its stderr open"
    until(lambda: not runs(int(pids.read_text())))


@pytest.mark.parametrize("where", ["", ">&2"])
def test_megabytes_are_read_and_forgotten(shelf: Shelf, where: str) -> None:
    shelf.put("talks", f"head -c 3000000 /dev/zero {where}; echo done {where}")
    assert shelf.ask("talks") == ""


def test_one_that_never_stops_to_talk_is_ended_in_time(shelf: Shelf) -> None:
    shelf.put("talks", "exec yes >&2")
    assert shelf.ask("talks", 0.5) == "no answer in time"


def test_what_can_not_be_run_says_why_and_nothing_of_the_endpoint(shelf: Shelf) -> None:
    shelf.put("plain", "exit 0", 0o644)
    shelf.put("open", "exit 0", 0o757)
    shelf.put("odd", "exit 0", by="#!/nowhere/sh")
    shelf.put("text", "exit 0", by="no interpreter")
    (shelf.path / "made" / "directory").mkdir()
    shelf.put("../outside", "exit 0")
    made = shelf.path / "made"
    for name, why in {
        "missing": f"script:missing: {made}/missing: no such file or directory",
        "plain": f"script:plain: {made}/plain is not executable, expected a file with mode 0755",
        "directory": f"script:directory: {made}/directory is not executable, expected a file with mode 0755",
        "open": f"script:open: everybody may write to {made}/open, expected mode 0755",
        "odd": "script:odd: it, or its interpreter: no such file or directory",
        "text": "script:text: it, or its interpreter: exec format error",
        "../outside": f"script:'../outside': expected the name of a file in {made}",
    }.items():
        with pytest.raises(UnmadeError) as caught:
            shelf.ask(name)
        assert str(caught.value) == why


def test_nothing_is_run_from_a_directory_where_everybody_may_put_scripts(shelf: Shelf) -> None:
    shelf.put("sound", "exit 0")
    made = shelf.path / "made"
    made.chmod(0o1777)
    with pytest.raises(UnmadeError, match=f"script:sound: everybody may write to {made}, expected mode 0755"):
        shelf.ask("sound")
    made.chmod(0o755)
    assert shelf.ask("sound") == ""


def test_a_directory_may_be_named_from_where_the_daemon_was_started(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("sound", "exit 0")
    monkeypatch.chdir(shelf.path)
    assert run(lambda: shelf.asked(Scripts(Path("made")), "sound")) == ""


def test_without_a_directory_nothing_is_run() -> None:
    with pytest.raises(UnmadeError, match="script:sh: none is run here, expected --health-scripts DIR"):
        run(lambda: Scripts(None).ask(probe("sh"), []))


def test_only_so_many_run_at_once_and_others_wait_without_failing(shelf: Shelf) -> None:
    begun, go = shelf.path / "begun", shelf.path / "go"
    begun.mkdir()
    shelf.put("waits", f"touch {begun}/$$; while ! test -e {go}; do sleep 0.01; done")

    async def scenario() -> list[str]:
        scripts = shelf.scripts()
        asking = [asyncio.create_task(scripts.ask(probe("waits"), [])) for _ in range(MOST_AT_ONCE + 3)]
        await met(lambda: len(list(begun.iterdir())) == MOST_AT_ONCE)
        await asyncio.sleep(0.1)
        assert len(list(begun.iterdir())) == MOST_AT_ONCE
        go.touch()
        return await asyncio.gather(*asking)

    assert asyncio.run(scenario()) == [""] * (MOST_AT_ONCE + 3)


def test_one_that_was_stopped_holds_its_place_until_it_is_gone(shelf: Shelf) -> None:
    pids = shelf.path / "pids"
    shelf.put("stops", f"echo $$ > {pids}; kill -STOP $$")

    async def scenario() -> str:
        scripts = shelf.scripts()
        why = await scripts.ask(probe("stops", 0.2), [])
        assert await scripts.ask(probe("stops", 0.2), []) == why, "there is room again"
        scripts.close()
        return why

    assert asyncio.run(scenario()) == "no answer in time"
    if pids.exists():
        until(lambda: not runs(int(pids.read_text())))


def test_at_the_end_those_that_run_are_ended(shelf: Shelf) -> None:
    pids = shelf.path / "pids"
    shelf.put("hangs", f"echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 1000")

    async def scenario() -> None:
        scripts = shelf.scripts()
        asking = asyncio.create_task(scripts.ask(probe("hangs"), []))
        await met(pids.exists)
        scripts.close()
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking

    asyncio.run(scenario())
    assert not runs(int(pids.read_text()))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), signal.SIGCONT)
