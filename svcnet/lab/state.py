"""Where a lab's files are, below DIRECTORY/NAME/. Shell.

Owns: the names of the files and the lock. Must not know what the processes do.

`lab.json` holds the LabSpec and is written before anything else is made: whatever exists of a lab can be found again
from it, and from the names of namespaces, after a crash at any point.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from svcnet.lab.replica import Placed
from svcnet.lab.spec import LabSpec
from svcnet.model.errors import SvcnetError

DEFAULT_DIRECTORY = Path("/run/svcnet/lab")


def directory(environ: Mapping[str, str]) -> Path:
    """Return where labs are kept: SVCNET_LAB_DIR, else /run/svcnet/lab."""
    return Path(environ.get("SVCNET_LAB_DIR") or DEFAULT_DIRECTORY)


class LabFiles(NamedTuple):
    """The files of one lab."""

    root: Path

    @property
    def spec(self) -> Path:
        """The LabSpec as JSON."""
        return self.root / "lab.json"

    @property
    def config(self) -> Path:
        """The daemons' configuration: empty, so that the machine's own is not read."""
        return self.root / "svcnet.toml"

    @property
    def records(self) -> Path:
        """The lab's own record directory."""
        return self.root / "records"

    @property
    def processes(self) -> Path:
        """Holds one file a process: who it is."""
        return self.root / "processes"

    @property
    def pods(self) -> Path:
        """Holds one file a pod of a controller: where it is."""
        return self.root / "pods"

    def place(self, placed: Placed) -> None:
        """Write down where a pod is, before it is made."""
        self.pods.mkdir(exist_ok=True)
        temporary = self.pods / f".{placed.name}"
        temporary.write_bytes(msgspec.json.encode(placed))
        temporary.rename(self.pods / placed.name)

    def placed(self) -> tuple[Placed, ...]:
        """Return where the controllers' pods are, by name."""
        try:
            names = sorted(path.name for path in self.pods.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return ()
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):  # it ended meanwhile
                found.append(msgspec.json.decode((self.pods / name).read_bytes(), type=Placed))
        return tuple(found)

    def url(self, spec: LabSpec) -> str:
        """URL of the lab's record store, from outside: the one it was given, else its own etcd or directory."""
        own = f"etcd://127.0.0.1:{spec.etcd_port}/{spec.name}" if spec.etcd_port else f"dir:{self.records}"
        return spec.records or own

    def process(self, member: str) -> Path:
        """Who runs for a member: `keeper`, a minion's proxy by the minion's name, a pod by its own."""
        return self.processes / member

    def log(self, member: str) -> Path:
        """What the keeper, or a minion's proxy, printed."""
        return self.root / "logs" / member

    def state(self, minion: str) -> Path:
        """`--state-dir` of a minion's proxy."""
        return self.root / "minions" / minion / "state"

    def env(self, minion: str) -> Path:
        """`--env-dir` of a minion's proxy."""
        return self.root / "minions" / minion / "env"

    def make(self, spec: LabSpec) -> None:
        """Write the spec, then make the directories."""
        temporary = self.root / ".lab.json"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(spec)))
        temporary.rename(self.spec)
        self.config.write_text("# The machine's own configuration is not the lab's.\n", encoding="utf-8")
        minions = [f"m{index}" for index in range(1, spec.minions + 1)]
        wanted = [self.processes, self.log(""), *map(self.state, minions), *map(self.env, minions)]
        for path in wanted if spec.records else [*wanted, self.records]:
            path.mkdir(parents=True)

    def read(self) -> LabSpec | None:
        """Return the spec, None when there is none (no such lab, or interrupted before it was written)."""
        try:
            return msgspec.json.decode(self.spec.read_bytes(), type=LabSpec)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def remove(self) -> None:
        """Remove everything, the spec last: a removal that is interrupted can be done again."""
        if not self.root.exists():
            return
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self.spec:
                path.unlink()
        self.spec.unlink(missing_ok=True)
        self.root.rmdir()
        with contextlib.suppress(OSError):  # other labs are there
            self.root.parent.rmdir()
            if self.root.parent == DEFAULT_DIRECTORY:
                DEFAULT_DIRECTORY.parent.rmdir()


@contextlib.contextmanager
def locked(files: LabFiles, doing: str) -> Iterator[None]:
    """Hold the lab while it is built or taken down; SvcnetError when another process holds it.

    The lock is on the directory itself, so it leaves no file, and the kernel drops it with its holder.
    """
    handle = os.open(files.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise SvcnetError(f"can't {doing} {files.root.name}: it is being built or taken down right now") from error
    finally:
        os.close(handle)
