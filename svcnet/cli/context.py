"""The composition root: the only place that picks a store by name.

Owns: `records` URL → store. Stores are imported when they are picked.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from svcnet.config import BY_NAME, Config
from svcnet.store.protocol import Store
from svcnet.virtual_ip import Allocation

if TYPE_CHECKING:
    from svcnet.prober import Speaker
    from svcnet.store.etcd import EtcdStore


def open_store(config: Config, remember: bool = True, make: bool = False) -> Store:
    """Return the store that `config.records` names; nothing is read yet.

    `remember`: the store may keep its revision in the state directory, which is the daemon's; commands that only
    read or write records do without. `make`: the default directory is made by whoever writes the first record on a
    new machine; one that was named must exist, as it may be a mount that is not there yet. ConfigError: what only this
    store minds about its options.
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
    return _etcd(config, allocation)


def open_speaker(config: Config) -> "Speaker | None":
    """Who tells other minions of failing health checks; None where no store leads to them."""
    if not config.records.startswith("etcd:"):
        return None
    return _etcd(config, Allocation(config.service_cidr)).speaker(config.node)


def _etcd(config: Config, allocation: Allocation) -> "EtcdStore":
    from svcnet.store.etcd import EtcdStore  # noqa: PLC0415 - as above
    from svcnet.store.etcd_client import Access  # noqa: PLC0415 - as above

    access = Access.from_url(
        config.records,
        cacert=config.etcd_cacert,
        cert=config.etcd_cert,
        key=config.etcd_key,
        user=config.etcd_user,
        password_file=config.etcd_password_file,
    )
    return EtcdStore(access, allocation)
