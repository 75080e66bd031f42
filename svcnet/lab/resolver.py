"""Names inside the lab: where each minion's DNS listens, and the resolv.conf of who runs there. Pure.

Owns: addresses, the file's text, and the command that puts it in place. Must not know what DNS answers.

Namespaces of the network share the machine's files, so what `lab exec` runs gets a mount namespace of its own in which
/etc/resolv.conf is another file. Where there is none, or it can't be mounted, the command runs all the same.
"""

from collections.abc import Sequence

from svcnet.lab.topology import LabMinion

LOOPBACK = "127.0.0.1"

# $0: the file; the rest is the command, which keeps its process id.
MOUNT_AND_BECOME = 'mount --bind "$0" /etc/resolv.conf 2>/dev/null; exec "$@"'


def listen(minion: LabMinion) -> str:
    """Return `--dns-listen` of a minion's proxy: itself, and its pods' gateway."""
    return ",".join(f"{address}:53" for address in (LOOPBACK, minion.gateways[0]))


def resolv_conf(minion: LabMinion, pod: bool) -> str:
    """Return resolv.conf of a minion, or of its pods: `tomcat`, `tomcat.svc` and `tomcat.default` are found."""
    server = minion.gateways[0] if pod else LOOPBACK
    return f"nameserver {server}\nsearch default.svc svc\noptions timeout:2 attempts:2\n"


def with_resolver(argv: Sequence[str], file: str) -> list[str]:
    """Return the command that runs `argv` (perhaps after `--`) with this resolv.conf."""
    if argv[:1] in (["--"], ("--",)):
        argv = argv[1:]
    return ["unshare", "--mount", "sh", "-c", MOUNT_AND_BECOME, file, *argv]
