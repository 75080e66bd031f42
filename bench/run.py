#!/usr/bin/env python3
"""The load test: `bench/run.py [--suite NAME] [OPTION…]`. Each suite has namespaces of its own and stops by itself.

Owns: the list of suites. Needs root (namespaces, nftables). Options that are not known here go to the suite.
"""

import argparse
import os
import sys
from typing import NamedTuple

DEFAULT = "load"


class Suite(NamedTuple):
    """What it measures. `apart`: in one namespace with nothing but lo, which is made for it here."""

    text: str
    apart: bool = True


SUITES = {
    DEFAULT: Suite("every data path side by side: throughput, new connections, latency (the default)", apart=False),
    "worker": Suite("the userspace path's worker killed under load: time to the next answer", apart=False),
    "proxy": Suite("the userspace proxy beside HAProxy, with splice and without, and nginx stream"),
    "curve": Suite("cost of one change by the number of services: tracker, plan, kernel"),
    "sync": Suite("N services x E endpoints: first packet, change to packet, memory, health; beside chains"),
    "connect": Suite("time of a connect through 1 to 10,000 services, in the kernel's paths, to direct", apart=False),
    "sizes": Suite("cost of a map with `size` and without, and grown in place (docs/adr/0010)"),
    "keys": Suite("cost of one element by the shape of the map (docs/adr/0001)"),
    "dns": Suite("DNS beside dnsmasq, Knot and NSD: queries a second, CPU a query, latency, memory"),
    "legacy": Suite("one change of legacy tables: restore beside libiptc (docs/adr/0009)"),
}


def main() -> None:
    """Become the suite."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--suite", choices=SUITES, default=DEFAULT)
    chosen, rest = parser.parse_known_args()
    if {"-h", "--help"} & {*rest} and chosen.suite == DEFAULT:
        print("suites, by --suite NAME:")
        print("\n".join(f"  {name:6} {suite.text}" for name, suite in SUITES.items()), end="\n\n", flush=True)
    elif os.geteuid() != 0:
        print("bench: needs root, for network namespaces of its own", file=sys.stderr)
        sys.exit(5)
    command = [sys.executable, "-m", f"svcnet.bench.{chosen.suite}", *rest]
    if SUITES[chosen.suite].apart:
        command = ["unshare", "--net", *command]
    # Not a child: Ctrl-C and SIGTERM are for the suite, which takes down what it made.
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
