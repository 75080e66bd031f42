"""A real etcd on loopback, as a machine has it: started, stopped, killed, started again on the same data.

Owns: the process and its directory. Must not know what it is tested for.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

import pytest

from tests.harness.ports import unused
from tests.harness.until import until

_OPENER = build_opener()


class EtcdServer:
    """One etcd of one member. `options` are further flags, as in --auth-token=simple; `scheme` https goes with them."""

    def __init__(self, path: Path, options: Sequence[str] = (), scheme: str = "http") -> None:
        self.path = path
        self.port, self._peer_port, self._health_port = unused(), unused(), unused()
        self._options = options
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """HOST:PORT, as a URL names it."""
        return f"127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        client, peer = f"{self._scheme}://{self.host}", f"http://127.0.0.1:{self._peer_port}"
        command = ["etcd", "--name=m", f"--data-dir={self.path}/data", f"--initial-cluster=m={peer}"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        command += [f"--listen-metrics-urls=http://127.0.0.1:{self._health_port}", *self._options]
        with (self.path / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._is_healthy, self._why_not)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it say nothing for a while, with every connection open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Forget everything; only while it is down."""
        assert not self.runs
        shutil.rmtree(self.path / "data")

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Run it on another port for a while, where its clients don't look; then on its own again."""
        port, self.port = self.port, unused()
        try:
            self.start()
            yield
        finally:
            self.stop()
            self.port = port
        self.start()

    def call(self, method: str, fields: Mapping[str, Any], token: str = "") -> dict[str, Any]:
        """Return the answer of etcd's JSON gateway, as in call("kv/compaction", {"revision": 7})."""
        headers = {"Authorization": token} if token else {}
        request = Request(f"http://{self.host}/v3/{method}", json.dumps(fields).encode(), headers)
        with _OPENER.open(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def _is_healthy(self) -> bool:
        try:
            with _OPENER.open(f"http://127.0.0.1:{self._health_port}/health", timeout=30) as answer:
                return bool(json.load(answer)["health"] == "true")
        except HTTPError as error:
            error.close()
            return False
        except (URLError, ConnectionError, TimeoutError):
            return False

    def _why_not(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, (self.path / "log").read_text()[-4000:]
        return ""

    def _end(self, number: int) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)
            self._process.wait()
            self._process = None


def etcd_in(factory: pytest.TempPathFactory, *options: str) -> EtcdServer:
    """A server that is not started yet, in a directory of its own."""
    return EtcdServer(factory.mktemp("etcd"), options)
