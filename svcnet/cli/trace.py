"""`svcnet trace SRC DST:PORT`: what becomes of such a packet, by the records and by the kernel, side by side.

Owns: the command. Works without the daemon and changes nothing. What is said is worked out in svcnet/trace/.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from svcnet.cli import candidate
from svcnet.cli.data_path import parameters
from svcnet.cli.in_force import InForce, in_force
from svcnet.cli.live import live
from svcnet.cli.option import with_config
from svcnet.cli.plan import OPTIONS
from svcnet.cli.trace_page import Told, as_json, lines
from svcnet.cli.tracked import Tracked, tracked
from svcnet.cli.unmet import is_proxied
from svcnet.config import Config, Loaded
from svcnet.endpoints import Networks
from svcnet.iptables.desired import desired
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.tracer import Packet
from svcnet.model.errors import KernelError, NotPermittedError
from svcnet.model.frontend import Frontend
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.overlap import read_addresses
from svcnet.trace.addressee import addressee
from svcnet.trace.comparison import differences
from svcnet.trace.expectation import expect, expect_of_userspace, through_proxy
from svcnet.trace.question import Machine, question
from svcnet.trace.standing import Setting, standing


@click.command()
@click.argument("source", metavar="SRC", shell_complete=candidate.clients)
@click.argument("destination", metavar="DST:PORT[/udp]", shell_complete=candidate.destinations)
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    metavar="NS",
    shell_complete=candidate.namespaces,
    help="Of names without one.",
)
@click.option("-o", "--output", type=click.Choice(["json"]), help="All of it as JSON.")
@with_config(*OPTIONS, "state_dir")
def trace(loaded: Loaded, source: str, destination: str, namespace: str, output: str | None) -> int:
    """Say what becomes of a packet of a new connection from SRC to DST: by the records, and by the kernel now.

    SRC is an address, the name of a pod, or `minion` (or `-`) for this machine itself. DST is an address, or
    [NAMESPACE/]SERVICE; PORT a number or the name of a port. Exit 0 when records and kernel agree, 1 when they don't.
    """
    found = in_force(loaded, OPTIONS)
    told, missing = tell(found, source, destination, namespace)
    if output == "json":
        import json  # noqa: PLC0415 - for this one form

        click.echo(json.dumps(as_json(told), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(told)))
    if missing is not None:
        raise missing
    return 0 if told.same is not False else 1


def tell(found: InForce, source: str, destination: str, namespace: str) -> tuple[Told, NotPermittedError | None]:
    """Work all of it out; and the error when the kernel may not be read. QuestionError, StoreError."""
    config = found.config
    state = tracked(config)
    records = {record.key: record for record in state.tracker.records()}
    machine = Machine(_addresses(), _own, state.minion.addresses)
    asked = question(source, destination, namespace, records, machine)
    told = _by_records(Told(asked, found.report, found.silence), config, state, records)
    if config.mode == "none":
        return told._replace(failure="--mode none: there is no data path"), None
    try:
        answer = live(config, config.mode, asked.packet)
    except NotPermittedError as error:
        return told._replace(failure=str(error)), error
    except KernelError as error:
        return told._replace(failure=str(error), same=False), None
    if answer.what.startswith("userspace"):
        told = told._replace(
            said=expect_of_userspace(asked.packet, told.whose, told.treatment, _parameters(config, asked.packet))
        )
    elif told.treatment is not None and is_proxied(told.treatment):
        told = told._replace(said=through_proxy(told.said, told.treatment))
    wrong = differences(told.said, answer.outcome, pinned=answer.pinned)
    return told._replace(answer=answer, wrong=tuple(wrong), same=not wrong), None


def _by_records(told: Told, config: Config, state: Tracked, records: Mapping[Key, Record]) -> Told:
    packet = told.asked.packet
    snapshot, minion = state.tracker.snapshot, state.minion
    whose = addressee(packet, snapshot, minion, config.service_cidr)
    treatment = None
    if whose.port is not None:
        frontend = Frontend(packet.family, packet.destination, packet.protocol, packet.port)
        treatment = desired(whose.port, minion).get(frontend)
    said = expect(packet, whose, treatment, _parameters(config, packet))
    candidates = []
    if whose.port is not None:
        service = Key("Service", whose.port.key.namespace, whose.port.key.service)
        failing = {(v.address, v.port): v.why for v in state.tracker.verdicts() if v.service == service}
        setting = Setting(config.node, Networks(config.endpoint_deny), failing)
        candidates = standing(whose.port, records, setting, local=said.local)
    return told._replace(whose=whose, treatment=treatment, said=said, candidates=tuple(candidates))


def _parameters(config: Config, packet: Packet) -> Parameters:
    return next((p for p in parameters(config) if p.family == packet.family), Parameters(packet.family))


def _addresses() -> frozenset[str]:
    with suppress(KernelError):
        return frozenset(str(found.ip) for found in read_addresses())
    return frozenset()


def _own(destination: str) -> str | None:
    """By which address this machine would go there; nothing is sent."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            name: Any = probe.getsockname()
            return str(name[0]).partition("%")[0]
    except OSError:
        return None
