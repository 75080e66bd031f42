"""Random histories of a record directory: whatever happens to the files, a watch ends where a fresh list begins.

The watch is the fast path (indexes, notices, lingering removals), the list the plain one: each is the other's oracle.
"""

import random
import shutil
import signal
import subprocess
import sys
from functools import partial
from os import environ
from pathlib import Path

import pytest

from svcnet.codec.reader import read
from svcnet.codec.writer import to_json, to_yaml
from svcnet.model.errors import ConflictError
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.store.dir import DirStore
from svcnet.store.tree import SUFFIXES
from tests.store.follower import ALLOCATION, Follower, addresses, endpoints, pod, run, service
from tests.store.test_dir_files import place

NAMES = "abcdef"
PLACES = ("", "d1/", "d1/deep/", "d2/")


def some_record(chance: random.Random) -> Record:
    name = chance.choice(NAMES)
    last = chance.randrange(1, 6)
    records: tuple[Record, ...] = (
        pod(name, f"10.1.0.{last}"),
        endpoints(name, f"10.1.0.{last}"),
        service(name),
        service(name, f"10.0.0.{last}"),
        service(name, "None"),
        service(name, type="NodePort", ports=(ServicePort(80, target_port=80, node_port=30000 + last),)),
        service(name, ip_family_policy="PreferDualStack"),
    )
    return chance.choice(records)


def some_text(chance: random.Random) -> bytes:
    records = [some_record(chance) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
    if len(records) == 1:
        return to_json(records[0])
    return "---\n".join(to_yaml(record) for record in records).encode()


def step(root: Path, store: DirStore, chance: random.Random) -> None:
    """Do one thing to the directory."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name[0] not in ".t")
    some = chance.choice(files) if files else None
    new = root / chance.choice(PLACES) / f"{chance.choice('uvwxyz')}.{chance.choice(('json', 'yaml'))}"
    what = chance.randrange(12)
    if what <= 4 or some is None:
        place(new, some_text(chance))
    elif what == 5:
        place(some, chance.choice((b"", b"{", b"\xff\x00", to_json(pod("x"))[:-9])))
    elif what == 6:
        some.unlink()
    elif what == 7:
        new.parent.mkdir(parents=True, exist_ok=True)
        some.rename(new)
    elif what == 8:
        some.write_bytes(some_text(chance))
    elif what == 9:
        parent, other = root / chance.choice(PLACES[1:]), root / f"d{chance.randrange(1, 5)}"
        if parent.is_dir() and not other.exists():
            parent.rename(other)
    elif what == 10:
        shutil.rmtree(root / chance.choice(PLACES[1:]), ignore_errors=True)
    else:
        store.put(pod(chance.choice(NAMES), "10.1.0.9"))


def remove_broken(root: Path) -> None:
    """Remove files with errors: a watch still has their last good records, a list never saw them."""
    for path in root.rglob("*.*"):
        if path.is_file() and path.suffix in SUFFIXES and read(path.read_bytes(), "").errors:
            path.unlink()


def agrees(store: DirStore, reader: Follower) -> bool:
    listing = store.list()
    problems = {problem.where: problem.what for problem in listing.problems}
    return reader.records == {record.key: record for record in listing.records} and reader.problems == problems


@pytest.mark.parametrize("seed", range(12))
def test_a_watch_ends_where_a_list_begins(records: Path, seed: int) -> None:
    chance = random.Random(seed)
    last = pod("last", "10.1.0.99")

    async def scenario() -> None:
        store = DirStore(records, ALLOCATION)
        async with Follower(store) as one, Follower(store) as two:
            await one.synced()
            for number in range(60):
                try:
                    step(records, store, chance)
                except (OSError, ConflictError):
                    continue  # what chance chose can't be done to the files as they are
                if not number % chance.randrange(2, 9):
                    place(records / "tick.json", to_json(pod("tick", f"10.1.9.{number}")))
                    await one.shows(pod("tick", f"10.1.9.{number}"))
            remove_broken(records)
            place(records / "last.json", to_json(last))
            for reader in (one, two):
                await reader.shows(last)
                await reader.until(partial(agrees, store))
                held = [
                    a for record in reader.records.values() if isinstance(record, Service) for a in addresses(record)
                ]
                held = [address for address in held if address != "None"]
                assert len(set(held)) == len(held)

    run(scenario)


WRITE = """
import sys
from pathlib import Path
from svcnet.store.dir import DirStore
from svcnet.store.tree import SUFFIXES
from tests.store.follower import ALLOCATION, key, pod, service

store = DirStore(Path(sys.argv[1]), ALLOCATION)
print(flush=True)
for number in range(10_000):
    store.put(service(f"s{sys.argv[2]}-{number}"), pod(f"p{sys.argv[2]}-{number}"), create=True)
    print(number, flush=True)
    if number % 3 == 2:
        store.delete(key(f"s{sys.argv[2]}-{number - 1}"))
        print(-number, flush=True)
"""


def test_writers_that_are_killed_leave_whole_records_and_true_claims(records: Path) -> None:
    chance = random.Random(1)
    env = {**environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    for turn in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(records), str(turn)], stdout=subprocess.PIPE, env=env
        )
        assert writer.stdout is not None
        for _ in range(chance.randrange(2, 20)):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        done = [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        writer.stdout.close()
        listing = DirStore(records, ALLOCATION).list()
        assert not listing.problems
        names = {record.key.name for record in listing.records}
        assert {f"p{turn}-{number}" for number in done if number >= 0} <= names
        found = [a for record in listing.records if isinstance(record, Service) for a in addresses(record)]
        assert len(set(found)) == len(found)
        assert () not in [addresses(record) for record in listing.records if isinstance(record, Service)]
