"""NSD and Knot as secondaries: processes of their own, in a namespace that a test made.

Owns: their configuration and their life. Must not know what the zones hold.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.harness.minion import Minion

PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
END_SECONDS = 20.0

NSD = """\
server:
  ip-address: {address}@53
  username: ""
  server-count: 1
  zonesdir: {root}
  pidfile: {root}/nsd.pid
  database: ""
  xfrdfile: {root}/xfrd.state
  xfrdir: {root}
  zonelistfile: {root}/zone.list
  xfrd-reload-timeout: 0
  rrl-ratelimit: 0
  verbosity: 2
remote-control:
  control-enable: no
"""
NSD_ZONE = """\
zone:
  name: {zone}
  zonefile: {zone}zone
  request-xfr: {primary} NOKEY
  allow-notify: {primary} NOKEY
  provide-xfr: 0.0.0.0/0 NOKEY
"""
KNOT = """\
server:
  listen: {address}@53
  rundir: {root}
  pidfile: {root}/knot.pid
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {root}
  journal-db-max-size: 64M
log:
  - target: stderr
    any: info
remote:
  - id: primary
    address: {primary}@53
acl:
  - id: primary
    address: {primary}
    action: notify
  - id: anybody
    action: transfer
template:
  - id: default
    storage: {root}
    master: primary
    acl: [primary, anybody]
    zonefile-sync: -1
zone:
"""
KNOT_ZONE = "  - domain: {zone}\n"


@contextlib.contextmanager
def _running(minion: Minion, root: Path, config: str, *argv: str) -> Iterator[Path]:
    root.mkdir()
    (root / "conf").write_text(config)
    log = root / "log"
    with log.open("wb") as out:
        process = minion.inside(
            lambda: subprocess.Popen(
                [*argv, str(root / "conf")], stdout=out, stderr=out, env=os.environ | {"PATH": PATH}, cwd=root
            )
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(END_SECONDS)


@contextlib.contextmanager
def nsd(minion: Minion, address: str, primary: str, zones: Sequence[str]) -> Iterator[Path]:
    """Run NSD; its log."""
    root = minion.root / "nsd"
    config = NSD.format(address=address, root=root)
    config += "".join(NSD_ZONE.format(zone=zone, primary=primary) for zone in zones)
    with _running(minion, root, config, "nsd", "-d", "-c") as log:
        yield log


@contextlib.contextmanager
def knot(minion: Minion, address: str, primary: str, zones: Sequence[str]) -> Iterator[Path]:
    """Run Knot; its log."""
    root = minion.root / "knot"
    config = KNOT.format(address=address, root=root, primary=primary)
    config += "".join(KNOT_ZONE.format(zone=zone) for zone in zones)
    with _running(minion, root, config, "knotd", "-c") as log:
        yield log
