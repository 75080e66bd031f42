"""`svcnet` as users run it: the installed program, a record directory of its own, no configuration of the machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(sys.executable).with_name("svcnet")


class Cli:
    """Runs the program; every call is one process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records = directory / "records"
        self.records.mkdir()
        config = directory / "svcnet.toml"
        config.write_text("")
        # Nothing of ours comes from the environment of whoever runs the tests, but what the session guard needs.
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("SVCNET_")}
        self.environ |= {"SVCNET_CONFIG": str(config), "SVCNET_RECORDS": f"dir:{self.records}", "LC_ALL": "C.UTF-8"}

    def __call__(
        self, *arguments: str | Path, stdin: str | bytes = b"", environ: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PROGRAM, *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=self.environ | (environ or {}),
            cwd=self.directory,
            timeout=60,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
        )

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
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)
