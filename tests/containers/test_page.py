"""The commands of docs/containers.md, as a stranger types them; only the directories are the test's own."""

import re
import sys
from pathlib import Path

import pytest

from tests.containers.engine import CREATE_NETWORK, Engine
from tests.harness.minion import TREE, Minion

pytestmark = [pytest.mark.kernel, pytest.mark.needs("podman")]

PAGE = (TREE / "docs/containers.md").read_text()
BLOCK = re.search(r"^## Try it\n.*?^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_a_stranger_gets_two_answers(minion: Minion, engine: Engine) -> None:
    assert BLOCK
    network, commands = BLOCK[1].split("\n", 1)
    assert network == " ".join(("podman", *CREATE_NETWORK))  # so it is there already

    settings = {
        "PATH": f"{engine.programs}:{Path(sys.executable).parent}:$PATH",
        "SVCNET_RECORDS": f"dir:{minion.records}",
        "SVCNET_STATE_DIR": str(minion.state),
        "SVCNET_ENV_DIR": str(minion.env),
    }
    exports = "".join(f'export {name}="{value}"\n' for name, value in settings.items())
    inside = commands.replace("services.env", str(minion.root / "services.env"))
    script = f"cd {TREE}\n{exports}trap 'kill $(jobs -p); wait' EXIT\n{inside}"
    done = minion.run("bash", "-euo", "pipefail", "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr
    resolved, *answered = done.stdout.splitlines()[-3:]
    assert re.fullmatch(r"10\.0\.\d+\.\d+ +tomcat\.svc", resolved)
    assert len(answered) == 2
    assert set(answered) < set(done.stdout.splitlines())
