"""Another data path for a running lab: the daemons' file is written and they are told to read it again.

Owns: the change, and waiting until every minion is in the new mode and ready. As an operator would do it: no daemon is
stopped, and the rules of the old mode go only after those of the new one are in force.
"""

import json
import os
import signal
import time

from svcnet.lab import namespace, probe, process
from svcnet.lab.lab import Lab
from svcnet.lab.spec import STATUS_PORT
from svcnet.model.errors import ConfigError, SvcnetError

RETRY_SECONDS = 0.02


def switch(lab: Lab, mode: str, timeout_seconds: float) -> None:
    """Put every minion in `mode`. ConfigError for a lab with --mode; SvcnetError when a minion does not get there."""
    if lab.topology.spec.mode:
        raise ConfigError(f"lab {lab.name} was started with --mode, which outranks its file; expected a lab without")
    begin = time.time()
    lab.files.config.write_text(f'mode = "{mode}"\n', encoding="utf-8")
    minions = [minion.name for minion in lab.topology.minions]
    for name in minions:
        found = process.read(lab.files.process(name))
        if found is None or not process.is_alive(found):
            raise SvcnetError(f"no svcnet-proxy runs on {name}")
        os.kill(found.pid, signal.SIGHUP)
    deadline = time.monotonic() + timeout_seconds
    for name in minions:
        why = _await(lab, name, mode, begin, deadline)
        if why:
            raise SvcnetError(f"{name} is not in mode {mode}: {why}")


def _await(lab: Lab, name: str, mode: str, begin: float, deadline: float) -> str:
    """Wait until a minion serves in `mode`; "" or what it said last. `begin`: when it was told, in Unix seconds."""

    def ask() -> str:
        why = "no answer"
        while time.monotonic() < deadline:
            try:
                report = json.loads(probe.fetch("127.0.0.1", STATUS_PORT, "/status", 1.0)[1])
            except (OSError, ValueError) as error:
                why = str(error)
            else:
                if report["ready"] and (report["mode"] == mode or report["mode_reason"].startswith(f"{mode}: ")):
                    return ""
                why = report["last_error"] or f"still mode {report['mode']}"
                if report["last_error"].startswith("reload: ") and (report["last_error_at"] or 0.0) >= begin:
                    return why
            time.sleep(RETRY_SECONDS)
        return why

    return namespace.inside(lab.topology.namespaces[name], ask)
