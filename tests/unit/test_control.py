"""The control socket: what `svcnet release` and others hear from the daemon."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from svcnet.cli.control import LINE_BYTES, SOCKET, ControlServer, ask
from svcnet.model.errors import NotPermittedError, StoreError, SvcnetError


async def release(request: dict[str, Any]) -> dict[str, Any]:
    return {"message": f"released {request.get('what', 'all')}"}


async def refuse(_request: dict[str, Any]) -> dict[str, Any]:
    raise StoreError("the store is away")


def serve(state_dir: Path, scenario: Callable[[ControlServer], Awaitable[None]]) -> None:
    async def run() -> None:
        server = ControlServer(state_dir, {"release": release, "refuse": refuse})
        await server.start()
        await scenario(server)
        await server.stop()

    asyncio.run(run())


async def raw(state_dir: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(state_dir / SOCKET), limit=2 * LINE_BYTES)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_command_is_carried_out_and_answered(tmp_path: Path) -> None:
    async def scenario(_server: ControlServer) -> None:
        assert await asyncio.to_thread(ask, tmp_path, "release", what="it") == {"ok": True, "message": "released it"}

    serve(tmp_path, scenario)


def test_a_refusal_is_an_error_with_its_text(tmp_path: Path) -> None:
    async def scenario(_server: ControlServer) -> None:
        with pytest.raises(SvcnetError, match=r"^the store is away$"):
            await asyncio.to_thread(ask, tmp_path, "refuse")
        with pytest.raises(SvcnetError, match="unknown command 'dance', expected one of refuse, release"):
            await asyncio.to_thread(ask, tmp_path, "dance")

    serve(tmp_path, scenario)


@pytest.mark.parametrize("line", [b"\n", b"nonsense\n", b"[]\n", b'{"command": 5}\n', b"\xff\xfe\n"])
def test_nonsense_is_refused_and_the_next_request_is_answered(tmp_path: Path, line: bytes) -> None:
    async def scenario(_server: ControlServer) -> None:
        assert b'"ok":false' in await raw(tmp_path, line)
        assert b'"ok":true' in await raw(tmp_path, b'{"command": "release"}\n')

    serve(tmp_path, scenario)


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    async def scenario(_server: ControlServer) -> None:
        assert b"at most" in await raw(tmp_path, b"x" * (LINE_BYTES + 1))

    serve(tmp_path, scenario)


def test_only_the_owner_may_use_it(tmp_path: Path) -> None:
    async def scenario(_server: ControlServer) -> None:
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600

    umask = os.umask(0)
    try:
        serve(tmp_path, scenario)
    finally:
        os.umask(umask)


def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
    with pytest.raises(SvcnetError, match="no svcnet-proxy runs with"):
        ask(tmp_path, "release")

    async def scenario(_server: ControlServer) -> None:
        assert (await asyncio.to_thread(ask, tmp_path, "release"))["ok"]

    serve(tmp_path, scenario)
    assert not (tmp_path / SOCKET).exists()


def test_a_daemon_that_ends_leaves_its_successors_socket(tmp_path: Path) -> None:
    async def scenario(server: ControlServer) -> None:
        successor = ControlServer(tmp_path, {"release": release})
        await successor.start()
        await server.stop()
        assert (await asyncio.to_thread(ask, tmp_path, "release"))["ok"]
        await successor.stop()

    serve(tmp_path, scenario)


def test_an_open_connection_does_not_keep_the_daemon_from_ending(tmp_path: Path) -> None:
    async def scenario(server: ControlServer) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
        writer.write(b'{"command": "release"}\n')
        await reader.readline()
        await server.stop()
        assert await reader.read() == b""
        writer.close()

    serve(tmp_path, scenario)


def test_a_state_directory_may_have_a_long_name(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 200)
    long.mkdir()

    async def scenario(_server: ControlServer) -> None:
        assert (await asyncio.to_thread(ask, long, "release"))["ok"]

    serve(long, scenario)


def test_no_daemon_is_an_error_that_names_the_state_directory(tmp_path: Path) -> None:
    with pytest.raises(SvcnetError, match=f"{tmp_path} "):
        ask(tmp_path, "release")


@pytest.mark.root
def test_another_user_is_told_that_it_is_not_permitted(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom svcnet.cli.control import ask\n"
        "os.setuid(65534)\nask(Path(sys.argv[1]), 'release')"
    )

    async def scenario(_server: ControlServer) -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, tmp_path, stderr=subprocess.PIPE)
        _, told = await process.communicate()
        assert NotPermittedError.__name__ in told.decode().splitlines()[-1]
        assert f"{tmp_path}/{SOCKET}" in told.decode()

    serve(tmp_path, scenario)
