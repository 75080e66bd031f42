"""Which data path: the only place that knows them by name.

Owns: `--mode`, the trial of what works here, `--cleanup`. Errors say what is missing and how to get it.
"""

from collections.abc import Callable
from typing import NamedTuple

from svcnet.config import Config
from svcnet.endpoints import Networks
from svcnet.iptables.conntrack import Conntrack
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import Parameters
from svcnet.model.errors import ConfigError, NotPermittedError, SvcnetError
from svcnet.status.gather import Mode


class Chosen(NamedTuple):
    """The data path (None: off) with its connection table, and why this one."""

    mode: Mode
    path: Nftables | None
    flows: Conntrack | None


def choose(config: Config) -> Chosen:
    """Try what `--mode` asks for; `auto` takes the first that works. NotPermittedError or SvcnetError says why none."""
    if config.mode == "none":
        return Chosen(Mode("none", "--mode none: no data path"), None, None)
    if config.mode == "auto":
        return _first(config)
    refuse_unbuilt(config)
    return _ATTEMPTS[config.mode](config, f"--mode {config.mode}")


def refuse_unbuilt(config: Config) -> None:
    """ConfigError for a mode that this version lacks."""
    if config.mode not in {"auto", "none", *_ATTEMPTS}:
        expected = ", ".join(["auto", *_ATTEMPTS, "none"])
        raise ConfigError(f"--mode {config.mode}: not in this version yet, expected one of {expected}")


def remove_all() -> list[str]:
    """Remove everything of ours from this network namespace; return what was there."""
    return ["nftables table svcnet"] if Nftables(NftKernel(), ()).remove() else []


def parameters(config: Config) -> tuple[Parameters, ...]:
    """The rules' parameters of each family that virtual IPs come from."""
    return tuple(
        Parameters(
            cidr.version,
            (str(cidr),),
            tuple(str(c) for c in config.cluster_cidr if c.version == cidr.version),
            config.masquerade_all,
            config.masquerade_bit,
        )
        for cidr in config.service_cidr
    )


def _first(config: Config) -> Chosen:
    refused: list[str] = []
    missing = False
    for name, attempt in _ATTEMPTS.items():
        try:
            return attempt(config, f"auto: {name} is the first that works")
        except NotPermittedError as error:
            missing = True
            refused.append(f"{name}: {error}")
        except SvcnetError as error:
            refused.append(f"{name}: {error}")
    kind = NotPermittedError if missing else SvcnetError
    raise kind("; ".join([*refused, "--mode none runs without a data path"]))


def _nftables(config: Config, reason: str) -> Chosen:
    kernel = NftKernel()
    kernel.chains(4)  # the cheapest request that needs the privilege
    flows = Conntrack(Networks(config.service_cidr))
    return Chosen(Mode("nftables", reason), Nftables(kernel, parameters(config)), flows)


_ATTEMPTS: dict[str, Callable[[Config, str], Chosen]] = {"nftables": _nftables}
