"""A load in small commits, to be killed in between: `python cut_load.py SERVICES ENDPOINTS`, in a namespace.

Owns: nothing but the wish for many services besides the one that must go on. Prints a line after every commit, to
which the test counts. The daemon has no option for the size of a commit: this is the same code with another one.
"""

import sys
from collections.abc import Sequence

from svcnet.cli.data_path import parameters
from svcnet.config import load
from svcnet.iptables.desired import Desired, Target, Treatment
from svcnet.iptables.elements import Op
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from tests.harness.minion import A6, SERVICE_CIDRS, VIP, VIP6, A

COMMIT_OPS = 50


class Counting(NftKernel):
    """The kernel; says when a commit is through."""

    def commit(self, ops: Sequence[Op]) -> None:
        """Carry out all or none."""
        super().commit(ops)
        sys.stdout.write("committed\n")
        sys.stdout.flush()


def wish(services: int, ends: int) -> Desired:
    """Service `web` as the test has it, and many more."""
    rows: Desired = {}
    for protocol in ("tcp", "udp"):
        for family, address, end in ((4, VIP, A), (6, VIP6, A6)):
            owner = PortKey("default", "web", protocol.upper(), 80, family)
            target = Target(end, 8080, hairpin=True)
            rows[Frontend(family, address, protocol, 80)] = Treatment(Class.CLUSTER, owner, (target,))
    for n in range(1, services + 1):
        owner = PortKey("default", f"s{n}", "TCP", 80, 4)
        targets = tuple(Target(f"10.9.{n % 250}.{i + 1}", 8080) for i in range(ends))
        rows[Frontend(4, f"10.0.{8 + n // 250}.{n % 250 + 1}", "tcp", 80)] = Treatment(Class.CLUSTER, owner, targets)
    return rows


def main() -> None:
    """Make it so."""
    options = load({"service-cidr": SERVICE_CIDRS}, {}, "m1", lambda _: b"")
    Nftables(Counting(), parameters(options), commit_ops=COMMIT_OPS).sync(wish(*map(int, sys.argv[1:3])))


if __name__ == "__main__":
    main()
