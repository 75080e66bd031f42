"""Whether a configuration can run: what a start, a reload and `check-config` ask in the same words.

Owns: the checks that need more than one option, and those that look at the machine. Nothing is written.
"""

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from svcnet import config as configuration
from svcnet.cli.context import open_store
from svcnet.cli.data_path import NOBODY, NOTHING, Chosen, Handing, choose, refuse_unbuilt
from svcnet.config import Config
from svcnet.model.errors import ConfigError, RecordError
from svcnet.overlap import check, check_external, read_machine
from svcnet.proxy.left import Left
from svcnet.store.claim_file import ClaimFile
from svcnet.virtual_ip import Allocation

log = logging.getLogger(__name__)


def vet_options(config: Config) -> None:
    """ConfigError for what is wrong on every machine: parts that this version lacks, ranges that overlap.

    What is unwise is logged.
    """
    refuse_unbuilt(config)
    open_store(config, remember=False)
    _refuse(check(config.service_cidr, (), (), (), config.cluster_cidr))
    for said in check_external(config.service_cidr, config.external_ips):
        log.warning("%s", said)


def vet(config: Config, left: Left = NOBODY, handing: Handing = NOTHING) -> Chosen:
    """Look at this machine too; return the data path that works here. `left`, `handing`: see `choose`.

    ConfigError: virtual IPs would hide what the machine reaches, or the records' virtual IPs come from another range.
    NotPermittedError, SvcnetError: no data path works, and why.
    """
    vet_options(config)
    machine = read_machine()
    _refuse(check(config.service_cidr, machine.addresses, machine.routes, machine.name_servers, config.cluster_cidr))
    scheme, _, path = config.records.partition(":")
    if scheme == "dir" and Path(path).is_dir():
        with suppress(OSError, RecordError):  # the store will say so, and the last good state serves
            ClaimFile(path, Allocation(config.service_cidr)).load()
    return choose(config, left, handing)


def _refuse(clashes: list[str]) -> None:
    if clashes:
        raise ConfigError("\n".join([*clashes, "expected a range that nothing else uses"]))


class Reload:
    """Reads the configuration again, from the same flags."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = dict(flags)

    def read(self) -> Config:
        """Return the options in force now. ConfigError."""
        return configuration.load(self._flags, os.environ, socket.gethostname())

    def __call__(self) -> Config:
        """Return them if this machine can run them. SvcnetError."""
        options = self.read()
        vet(options)
        return replace(options, takeover=False)  # that is done
