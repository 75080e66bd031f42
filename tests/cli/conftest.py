"""`svcnet` as users run it: a record directory of its own, no configuration of the machine.

Commands run in this process, by the program's own entry: a process each would cost a quarter of a second. What depends
on being a process (pipes, signals, users, start) is run as one, by `process`.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from svcnet.cli.main import run, svcnet

PROGRAM = Path(sys.executable).with_name("svcnet")


class Done(NamedTuple):
    """What one command did."""

    returncode: int
    stdout: str
    stderr: str


class Cli:
    """Runs commands."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.records = directory / "records"
        self.records.mkdir()
        config = directory / "svcnet.toml"
        config.write_text("")
        for name in os.environ:
            if name.startswith("SVCNET_"):
                monkeypatch.delenv(name)
        # Without a buffer Python drops the rest of a write that a closed pipe cut short, and sees no error.
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        monkeypatch.setenv("SVCNET_CONFIG", str(config))
        monkeypatch.setenv("SVCNET_RECORDS", f"dir:{self.records}")
        monkeypatch.chdir(directory)
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> Done:
        """Run a command in this process."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
            code = run(svcnet, [str(argument) for argument in arguments])
        return Done(code, output.getvalue(), errors.getvalue())

    def process(self, *arguments: str | Path, stdin: str | bytes = b"", **environ: str) -> Done:
        """Run a command as a process."""
        done = subprocess.run(
            [PROGRAM, *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=os.environ | environ,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command as a process; the caller ends it."""
        pipe = subprocess.PIPE
        return subprocess.Popen([PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def ok(self, *arguments: str | Path, stdin: str | bytes = b"") -> str:
        """Run what must work, silently on stderr; return its standard output."""
        done = self(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def json(self, *arguments: str | Path) -> Any:
        """Run what prints JSON."""
        return json.loads(self.ok(*arguments, "-o", "json"))

    def file(self, name: str, content: str | bytes | dict[str, Any]) -> Path:
        """Write a file to give to a command; not in the record directory."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def create(self, *records: dict[str, Any]) -> None:
        """Create records."""
        self.ok("create", "-f", "-", stdin="\n".join(json.dumps(record) for record in records))

    @staticmethod
    def service(name: str, port: int = 8080, namespace: str = "default", **spec: Any) -> dict[str, Any]:
        spec = {"ports": [{"port": port}], "selector": {"app": name}} | spec
        meta = {"name": name, "namespace": namespace, "labels": {"app": name}}
        return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}

    @staticmethod
    def pod(
        name: str, app: str, ip: str, ready: bool = True, namespace: str = "default", **meta: Any
    ) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}} | meta,
            "spec": {"nodeName": "m1", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": conditions},
        }


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(tmp_path, monkeypatch)
