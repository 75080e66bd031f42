"""The lab's own etcd: in the switch's namespace for the minions, through a relay on loopback for the machine. Shell.

Owns: how both are started and what they are called. Must not know records. As any process of the lab they write down
who they are, and end with it.

The machine has no way into the lab's network, and must not get one: the relay listens outside and connects inside.
"""

import asyncio
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from svcnet.lab import namespace, probe, process
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import Topology
from svcnet.model.errors import ConfigError, SvcnetError

ETCD, RELAY = "etcd", "etcd-relay"
"""Their names among the lab's processes and logs."""
PORT, PEER_PORT = 2379, 2380
CHUNK_BYTES = 1 << 16


def free_port() -> int:
    """Return a port of this machine's loopback that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def inner_url(topology: Topology) -> str:
    """Return the URL of the records for whoever is in the lab's network."""
    return f"etcd://{topology.switch_addresses[0]}:{PORT}/{topology.spec.name}"


def start(topology: Topology, files: LabFiles, environ: Mapping[str, str], deadline: float) -> None:
    """Start both and wait until etcd answers. SvcnetError when it doesn't; ConfigError when it isn't installed."""
    if shutil.which("etcd", path=environ.get("PATH")) is None:
        raise ConfigError("--store etcd: there is no etcd on this machine (Debian: etcd-server)")
    address = str(topology.switch_addresses[0])
    inside = ["nsenter", f"--net={namespace.path(topology.switch)}", *_argv(address, str(files.root / ETCD))]
    started = process.spawn(inside, files.process(ETCD), files.log(ETCD), environ)
    relay = [sys.executable, "-m", "svcnet.lab.etcd", str(topology.spec.etcd_port), topology.switch, address]
    relaying = process.spawn(relay, files.process(RELAY), files.log(RELAY), environ)

    def alive() -> bool:
        return all(one is not None and process.is_alive(one) for one in (started, relaying))

    why = probe.until_ok(topology.switch, address, PORT, "/health", deadline, alive)
    while why is None and not _answers(topology.spec.etcd_port):
        if not alive() or time.monotonic() > deadline:
            why = "no answer through the relay"
        time.sleep(probe.RETRY_SECONDS)
    if why:
        raise SvcnetError(f"the lab's etcd is not ready: {why}; its log: {files.log(ETCD)}")


def _argv(address: str, data: str) -> list[str]:
    client, peer = f"http://{address}:{PORT}", f"http://{address}:{PEER_PORT}"
    return [
        "etcd",
        f"--name={ETCD}",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={ETCD}={peer}",
    ]


def _answers(port: int) -> bool:
    try:
        return probe.fetch("127.0.0.1", port, "/health", 1.0)[0] == 200
    except (OSError, ValueError):
        return False


async def relay(listener: socket.socket, address: str) -> None:
    """Hand every connection on to etcd at `address`, for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(address, PORT)
        except OSError:
            writer.close()
            return
        with suppress(OSError):
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
        upstream[1].close()
        writer.close()

    server = await asyncio.start_server(serve, sock=listener)
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def main(arguments: Sequence[str]) -> None:
    """Be the relay: PORT NAMESPACE ADDRESS."""
    port, where, address = arguments
    listener = socket.create_server(("127.0.0.1", int(port)))
    namespace.enter(where)  # the listener stays outside
    asyncio.run(relay(listener, address))


if __name__ == "__main__":
    main(sys.argv[1:])
