"""From records to packets at a size: first packet, one change, memory, health; the chain-per-service shape beside it.

Run by `bench/run.py --suite sync [--mode M] [--services N] [--endpoints E] [--changes C] [--chains N,N…]`. The daemon
is pinned to the first core, the client to the last. Traffic goes to addresses of the namespace's lo alone.
"""

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from svcnet.bench import chains
from svcnet.bench.health import ask as ask_health
from svcnet.bench.health import asking
from svcnet.bench.paths import PATHS
from svcnet.bench.world import PORT, TARGET_PORT, one_endpoint, records, virtual_ip, write

MOST_SERVICES = 60_000
"""Of the baseline: the addresses of its range."""
ANSWERING = ("192.0.2.21", "192.0.2.22")
FIRST_PACKET_SECONDS = 300.0
CHANGE_SECONDS = 10.0
STATUS_PORT = 10256
MODES = ("nftables", "iptables-nft", "iptables-legacy")


def prepare() -> None:
    """Addresses that answer, and a route for virtual IPs, in this (new) namespace."""
    if {name for _, name in socket.if_nameindex()} != {"lo"}:
        raise SystemExit("bench: runs only in a network namespace that has nothing but lo: use bench/run.py")
    lines = ["link set lo up", *(f"addr add {ip}/32 dev lo" for ip in ("192.0.2.1", *ANSWERING))]
    lines.append("route add default dev lo src 192.0.2.1")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def serve(ip: str) -> None:
    """Answer every connection with the address that it reached."""
    listener = socket.create_server((ip, TARGET_PORT), backlog=512)

    def loop() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(ip.encode())

    threading.Thread(target=loop, daemon=True).start()


def ask(i: int, seconds: float) -> str:
    """Who answers behind service i; "" when nobody does in time."""
    try:
        with socket.create_connection((virtual_ip(i), PORT), timeout=seconds) as connection:
            return connection.recv(64).decode()
    except OSError:
        return ""


@contextlib.contextmanager
def daemon(directory: Path, state: Path, log: Path, mode: str) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """svcnet-proxy on these records, pinned to the first core; with the time of its start."""
    command = [sys.executable, "-m", "svcnet.cli.daemon", f"--records=dir:{directory}", f"--state-dir={state}"]
    command += ["--service-cidr=10.0.0.0/14", "--node=m1", "--env-dir=off", "--dns-listen=off"]
    command += [f"--status-listen=127.0.0.1:{STATUS_PORT}", f"--mode={mode.partition('-')[0]}"]
    with log.open("wb") as out:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=lambda: os.sched_setaffinity(0, {0}))  # noqa: PLW1509 (one thread so far in the child's copy)
        try:
            yield process, begin
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def first_packet(process: subprocess.Popen[bytes], begin: float, probes: tuple[int, ...]) -> float:
    """Seconds from exec until every probed service answers."""
    waiting = list(probes)
    while waiting and time.perf_counter() - begin < FIRST_PACKET_SECONDS and process.poll() is None:
        if ask(waiting[-1], 0.02):
            waiting.pop()
    if waiting:
        raise SystemExit(f"bench: no answer through services {waiting}")
    return time.perf_counter() - begin


def one_change(directory: Path, i: int, ip: str) -> float:
    """Seconds from the rename of a slice's file to the first answer of its new endpoint."""
    record = one_endpoint(i, ip)
    begin = time.perf_counter()
    write(directory, record)
    while ask(i, 0.5) != ip:
        if time.perf_counter() - begin > CHANGE_SECONDS:
            raise SystemExit(f"bench: service {i} did not change in {CHANGE_SECONDS:.0f} s")
    return time.perf_counter() - begin


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken: what other programs on the machine do not stretch."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> tuple[int, int]:
    """(resident now, highest) in MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) // 1024, int(fields["VmHWM"].split()[0]) // 1024


def fill(directory: Path, services: int, endpoints: int) -> tuple[int, tuple[int, int, int]]:
    """Write every record; the number of files, and the services whose endpoint really answers."""
    directory.mkdir()
    count = 0
    for record in records(services, endpoints):
        write(directory, record)
        count += 1
    probes = (1, services // 2, services)
    reset(directory, probes)
    return count, probes


def reset(directory: Path, probes: tuple[int, ...]) -> None:
    """Let the probed services have one endpoint that answers."""
    for i in probes:
        write(directory, one_endpoint(i, ANSWERING[0]))


def wipe(mode: str) -> None:
    """Remove all rules; a rule of others makes the daemon take the tables that `mode` names."""
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    family, _, variant = mode.partition("-")
    if variant:
        lines = ["*filter", ":BENCH - [0:0]", "-A BENCH -j RETURN", "COMMIT", "*nat", "COMMIT"]
        text = "\n".join([*lines, ""])
        subprocess.run([f"{family}-{variant}-restore"], input=text, text=True, check=True)  # what is not named goes


def svcnet_row(
    temporary: Path, directory: Path, probes: tuple[int, int, int], changes: int, rounds: int, mode: str
) -> None:
    """Measure the daemon: a fresh state directory each round."""
    firsts: list[float] = []
    times: list[float] = []
    sizes: list[tuple[int, int]] = []
    processors: list[float] = []
    for n in range(rounds):
        wipe(mode)
        with daemon(directory, temporary / f"state{n}", temporary / "log", mode) as (process, begin):
            firsts.append(first_packet(process, begin, probes))
            if PATHS[mode].proof not in (temporary / "log").read_text():
                raise SystemExit(f"bench: the daemon's log lacks `{PATHS[mode].proof}`")
            processors.append(cpu_seconds(process.pid))
            time.sleep(3)  # the daemon's imports and its first checkpoint are over then
            for step in range(changes):
                times.append(one_change(directory, probes[step % 3], ANSWERING[(step // 3 + 1) % 2]))
                time.sleep(0.02)  # a quiet time before each change
            sizes.append(memory(process.pid))
        reset(directory, probes)
    times.sort()
    print(f"  exec to first packet  {spread(firsts)}, of which on the CPU {spread(processors)}")
    if times:
        p50, p99 = (times[int(len(times) * q)] * 1000 for q in (0.5, 0.99))
        print(f"  rename to packet      p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(times)} changes)")
    print(f"  daemon memory         {max(s[0] for s in sizes)} MiB resident, {max(s[1] for s in sizes)} MiB at most")


def spread(seconds: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f})"


def health_row(temporary: Path, directory: Path, probes: tuple[int, int, int], mode: str) -> None:
    """Give a daemon that runs all records at once, by one rename; ask /healthz all the while."""
    wipe(mode)
    empty = temporary / "empty"
    empty.mkdir()
    with daemon(empty, temporary / "state-health", temporary / "log", mode) as (process, _):
        while not _answers():
            time.sleep(0.05)
        with asking(STATUS_PORT) as asked:
            time.sleep(0.3)
            begin = time.perf_counter()
            directory.rename(empty / "all")
            took = first_packet(process, begin, probes)
            time.sleep(3)  # checkpoint and env files come after the packets, and count
    print(f"  /healthz under a load {asked.heard}; its first packet after {took:.2f} s")


def _answers() -> bool:
    with contextlib.suppress(OSError):
        return ask_health(STATUS_PORT)
    return False


def chains_row(services: int, endpoints: int, seconds: float) -> None:
    """Measure the chain-per-service shape through `nft -f`."""
    wipe("")
    took = chains.load(chains.whole(services, endpoints), seconds)
    name = f"chain per service, {services} x {endpoints} through nft -f"
    if took is None:
        print(f"{name}: not loaded after {seconds:.0f} s (stopped)")
        return
    times = sorted(chains.load(chains.changed(services, endpoints, s), seconds) or seconds for s in range(1, 8))
    print(f"{name}: load {took:.2f} s, one change {statistics.median(times) * 1000:.0f} ms ({len(times)} changes)")
    chains.remove()


def _sizes(text: str) -> list[int]:
    sizes = [int(number) for number in text.split(",") if number]
    if not all(0 < size <= MOST_SERVICES for size in sizes):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 1 to {MOST_SERVICES}")
    return sizes


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--changes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chains", type=_sizes, default="100,1000,2000", help="sizes of the baseline; empty: none")
    parser.add_argument("--chains-seconds", type=float, default=200.0)
    options = parser.parse_args()
    prepare()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for ip in ANSWERING:
        serve(ip)
    with tempfile.TemporaryDirectory() as name:
        temporary, directory = Path(name), Path(name, "records")
        count, probes = fill(directory, options.services, options.endpoints)
        shape = f"{options.services} services x {options.endpoints} endpoints from {count} files"
        print(f"svcnet-proxy, {options.mode}, {shape}, {options.rounds} rounds", flush=True)
        svcnet_row(temporary, directory, probes, options.changes, options.rounds, options.mode)
        health_row(temporary, directory, probes, options.mode)
    for size in options.chains:
        chains_row(size, options.endpoints, options.chains_seconds)


if __name__ == "__main__":
    main()
