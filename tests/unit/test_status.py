"""The status server as curl and Prometheus see it."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from svcnet.model.snapshot import Endpoint, Held, LeftOut, PortKey, ServedPort
from svcnet.status.metrics import Metrics
from svcnet.status.page import SHOWN, page, summary
from svcnet.status.report import LeftOutEntry, Report, StoreState, entries, held_list
from svcnet.status.server import MOST_CONNECTIONS, StatusServer

REPORT = Report(
    node="m1",
    mode="nftables",
    mode_reason="nft 1.0.6 works",
    ready=True,
    revision_seen=8,
    revision_applied=7,
    services=3,
    endpoints=9,
    oldest_unapplied_seconds=0.25,
    drift=1,
    left_out=entries([LeftOut("Service default/<b>", "10.9.9.9 is outside 10.0.0.0/16")]),
    last_error="",
    last_error_batch=("~ 10.0.0.5 tcp/80 → <b>",),
    last_error_changes=1,
    store=StoreState(connected=True, held=held_list(Held(12, 20, 8))),
    parts={"dns": "failed: port 53 is taken", "env": "running", "proxy": "off"},
)

Get = Callable[..., Awaitable[tuple[int, str, str]]]


def ask(report: Report, scenario: Callable[[Get], Awaitable[None]], metrics: Metrics | None = None) -> None:
    """Run a server of this report and the scenario against it."""

    async def run() -> None:
        server = StatusServer(lambda: report, metrics or Metrics())
        assert await server.start(("127.0.0.1", 0)) == "running"
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:

            async def get(path: str, **headers: str) -> tuple[int, str, str]:
                async with client.get(path, headers=headers) as answer:
                    return answer.status, answer.headers["Content-Type"], await answer.text()

            await scenario(get)
        await server.stop()

    asyncio.run(run())


def test_status_has_exactly_the_fields_of_the_contract() -> None:
    async def scenario(get: Get) -> None:
        code, kind, body = await get("/status")
        assert (code, kind) == (200, "application/json")
        assert json.loads(body) == {
            "node": "m1",
            "mode": "nftables",
            "mode_reason": "nft 1.0.6 works",
            "ready": True,
            "healthy": True,
            "revision_seen": 8,
            "revision_applied": 7,
            "services": 3,
            "endpoints": 9,
            "oldest_unapplied_seconds": 0.25,
            "drift": 1,
            "left_out": [{"what": "Service default/<b>", "reason": "10.9.9.9 is outside 10.0.0.0/16"}],
            "last_error_batch": ["~ 10.0.0.5 tcp/80 → <b>"],
            "last_error_changes": 1,
            "ejected": [],
            "last_error": "",
            "last_error_at": None,
            "store": {
                "connected": True,
                "staleness_seconds": 0.0,
                "held": {"missing": 12, "known": 20, "revision": 8},
                "reason": "",
            },
            "parts": {"dns": "failed: port 53 is taken", "env": "running", "proxy": "off"},
        }

    ask(REPORT, scenario)


def test_a_failed_part_is_named_and_the_minion_is_ready_all_the_same() -> None:
    async def scenario(get: Get) -> None:
        assert await get("/readyz") == (200, "text/plain; charset=utf-8", "ok\ndns failed: port 53 is taken\n")
        assert (await get("/healthz"))[0] == 200

    ask(REPORT, scenario)


def test_before_the_first_sync_the_minion_is_healthy_but_not_ready() -> None:
    async def scenario(get: Get) -> None:
        code, _, body = await get("/readyz")
        assert (code, body) == (503, "not ready: the first sync is not applied yet\n")
        assert (await get("/healthz"))[0] == 200

    ask(Report(node="m1", mode="none"), scenario)


def test_an_unhealthy_minion_says_why() -> None:
    async def scenario(get: Get) -> None:
        assert (await get("/healthz"))[::2] == (503, "not healthy: kernel: EPERM\n")

    ask(msgspec.structs.replace(REPORT, healthy=False, last_error="kernel: EPERM"), scenario)


def counted() -> Metrics:
    metrics = Metrics()
    metrics.synced(0.003, 5, 7, 1000.0)
    metrics.synced(0.5, 2, 8, 1001.5)
    metrics.synced(100.0, 0, 9, 1002.5)
    metrics.sync_failed()
    metrics.programmed(0.0015)
    metrics.flows_deleted(4)
    metrics.env_rendered(2)
    return metrics


@pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)]
)
def test_metrics_are_read_by_prometheus_in_both_forms(accept: str, parse: Callable[..., object]) -> None:
    async def scenario(get: Get) -> None:
        _, kind, body = await get("/metrics", Accept=accept)
        assert kind.startswith("application/openmetrics-text" if accept else "text/plain")
        found = {
            sample.name + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items())): sample.value
            for family in parse(body)  # type: ignore[attr-defined]  # the parsers carry no types
            for sample in family.samples
        }
        expected = {
            "svcnet_sync_proxy_rules_duration_seconds_count": 3,
            "svcnet_sync_proxy_rules_duration_seconds_bucket{le=0.002}": 0,
            "svcnet_sync_proxy_rules_duration_seconds_bucket{le=0.004}": 1,
            "svcnet_sync_proxy_rules_duration_seconds_bucket{le=0.512}": 2,
            "svcnet_sync_proxy_rules_duration_seconds_bucket{le=+Inf}": 3,
            "svcnet_sync_proxy_rules_last_timestamp_seconds": 1002.5,
            "svcnet_sync_proxy_rules_service_changes_total": 7,
            "svcnet_sync_proxy_rules_failures_total": 1,
            "svcnet_network_programming_duration_seconds_count": 1,
            "svcnet_conntrack_reconciler_deleted_entries_total": 4,
            "svcnet_env_renders_total": 2,
            "svcnet_store_connected": 1,
            "svcnet_store_staleness_seconds": 0,
            "svcnet_store_revision": 8,
            "svcnet_applied_revision": 7,
            "svcnet_services": 3,
            "svcnet_records_left_out": 1,
            "svcnet_store_held_services": 12,
            "svcnet_rule_drift_total": 1,
            "svcnet_part_running{part=dns}": 0,
            "svcnet_part_running{part=env}": 1,
            "svcnet_build_info{mode=nftables}{node=m1}{version=0.1.0}": 1,
        }
        assert {name: found.get(name) for name in expected} == expected

    ask(REPORT, scenario, counted())


def test_the_page_shows_foreign_names_as_text() -> None:
    async def scenario(get: Get) -> None:
        code, kind, body = await get("/")
        assert (code, kind) == (200, "text/html; charset=utf-8")
        assert "Service default/&lt;b&gt;" in body
        assert "<script" not in body

    ask(REPORT, scenario)


def test_the_page_shows_services_and_where_they_lead() -> None:
    key = PortKey("default", "tomcat", "TCP", 8080, 4)
    ends = tuple(Endpoint(f"10.1.0.{n}", 8080) for n in range(1, 11))
    other = key._replace(service="none")
    ports = {key: ServedPort(key, "", "10.0.0.5", ends), other: ServedPort(other, "", "10.0.0.6", ())}
    text = page(REPORT, ports)
    assert "default/tomcat tcp/8080" in text
    assert "10.0.0.5 → 10.1.0.1:8080" in text
    assert "and 2 more" in text
    assert "10.0.0.6 → no endpoint: refused" in text


def test_a_long_list_is_cut_on_the_page_and_says_so() -> None:
    long = msgspec.structs.replace(REPORT, left_out=tuple(LeftOutEntry(f"w{i}", "r") for i in range(SHOWN + 1)))
    assert f">w{SHOWN}<" not in page(long)
    assert f"Not served ({SHOWN + 1})" in page(long)


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (REPORT, "Held: a list lacks 12 of 20 services. Let it through with: svcnet release"),
        (Report(node="m", mode="none"), "Not ready: the first sync is not applied yet. 0 services, 0 endpoints"),
        (
            Report(node="m", mode="none", ready=True, store=StoreState(connected=False, staleness_seconds=61.4)),
            "Store away for 61 s; the last state serves on. 0 services, 0 endpoints",
        ),
        (
            Report(node="m", mode="none", ready=True, services=1, endpoints=2, store=StoreState(connected=True)),
            "In sync. 1 services, 2 endpoints",
        ),
    ],
)
def test_the_first_line_says_whether_it_serves(report: Report, line: str) -> None:
    assert summary(report) == line


def test_a_port_that_is_taken_is_a_failed_part_and_can_be_tried_again() -> None:
    async def run() -> None:
        server = StatusServer(lambda: REPORT, Metrics())
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = taken.getsockname()
            assert (await server.start(address)).startswith("failed: ")
        assert await server.start(address) == "running"
        assert server.port == address[1]
        await server.stop()

    asyncio.run(run())


def test_connections_that_nobody_uses_give_way_to_new_ones() -> None:
    """Else whoever may connect takes all the files that the daemon may open."""

    async def run() -> None:
        server = StatusServer(lambda: REPORT, Metrics())
        await server.start(("127.0.0.1", 0))
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MOST_CONNECTIONS + 5)]
        for reader, writer in idle[:5]:
            assert await reader.read() == b""
            writer.close()
        for _ in range(2):  # the oldest of those that are left go, one for each of these
            async with (
                aiohttp.ClientSession() as client,
                client.get(f"http://127.0.0.1:{server.port}/healthz") as answer,
            ):
                assert answer.status == 200
        await server.stop()
        for _, writer in idle[5:]:
            writer.close()

    asyncio.run(run())


def test_counting_imports_nothing_heavy() -> None:
    code = (
        "import sys; from svcnet.status.metrics import Metrics; import svcnet.status.report, svcnet.status.server\n"
        "Metrics().synced(1, 1, 1, 1)\n"
        "print([m for m in ('aiohttp', 'prometheus_client', 'asyncio', 'html') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "['html']\n"
