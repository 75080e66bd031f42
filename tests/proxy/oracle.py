"""HAProxy beside ours: the same conversation with both.

Owns: its process, on a listener of the test's. Must not know what is said.
"""

import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.proxy.stage import HOST, PATIENCE_SECONDS, Stage

Connect = Callable[[], socket.socket]
Front = Callable[..., Connect]
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
BOTH = ("svcnet", pytest.param("haproxy", marks=pytest.mark.needs("haproxy")))
"""Parameters of a fixture."""


def haproxy(stack: ExitStack, stage: Stage, directory: Path, config: Callable[[int], str]) -> Connect:
    """Run it until the stack ends; what connects to it. `config`: its file, by the number of its listener."""
    listener = stage.keep(socket.create_server((HOST, 0), backlog=512))
    file = directory / "haproxy.cfg"
    file.write_text(config(listener.fileno()))
    command = [str(HAPROXY), "-db", "-q", "-f", str(file)]
    process = stack.enter_context(subprocess.Popen(command, pass_fds=[listener.fileno()]))
    stack.callback(process.terminate)
    stage.proxies.add(process.pid)
    return lambda: stage.keep(socket.create_connection(listener.getsockname(), PATIENCE_SECONDS))
