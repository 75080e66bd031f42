#!/usr/bin/env python3
"""The load test: `bench/run.py --suite NAME`. Each suite runs in a network namespace of its own and stops by itself.

Owns: the list of suites, and the namespace around each. Needs root (namespaces, nftables).
"""

import argparse
import os
import subprocess
import sys

SUITES = {
    "curve": ("svcnet.bench.curve", "cost of one change by the number of services: tracker, plan, kernel"),
    "sync": ("svcnet.bench.sync", "N services x E endpoints: first packet, change to packet, memory; beside chains"),
    "keys": ("svcnet.bench.keys", "cost of one element by the shape of the map (docs/adr/0001)"),
}


def main() -> int:
    """Run one suite; options that are not ours go to it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--suite", choices=SUITES, default="curve", help="; ".join(f"{k}: {v[1]}" for k, v in SUITES.items())
    )
    chosen, rest = parser.parse_known_args()
    if os.geteuid() != 0:
        print("bench: needs root, for a network namespace of its own", file=sys.stderr)
        return 5
    module = SUITES[chosen.suite][0]
    return subprocess.run(["unshare", "--net", sys.executable, "-m", module, *rest], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
