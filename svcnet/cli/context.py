"""The composition root: the only place that picks a store by name.

Owns: `records` URL → store. Stores are imported when they are picked.
"""

from pathlib import Path

from svcnet.config import BY_NAME, Config
from svcnet.model.errors import ConfigError
from svcnet.store.protocol import Store
from svcnet.virtual_ip import Allocation


def open_store(config: Config, remember: bool = True, make: bool = False) -> Store:
    """Return the store that `config.records` names; nothing is read yet.

    `remember`: the store may keep its revision in the state directory, which is the daemon's; commands that only
    read or write records do without. `make`: the default directory is made by whoever writes the first record on a
    new machine; one that was named must exist, as it may be a mount that is not there yet. ConfigError: a store that
    this version doesn't have.
    """
    scheme, _, rest = config.records.partition(":")
    allocation = Allocation(config.service_cidr)
    if scheme == "dir":
        from svcnet.store.dir import DirStore  # noqa: PLC0415 - only the store in use is imported

        make = make and config.records == BY_NAME["records"].default
        return DirStore(Path(rest), allocation, config.state_dir if remember else None, make=make)
    if scheme == "memory":
        from svcnet.store.memory import MemoryStore  # noqa: PLC0415 - as above

        return MemoryStore(allocation)
    raise ConfigError(f"--records {config.records}: etcd is not in this version yet, expected dir:PATH")
