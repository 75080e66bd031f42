"""The agent's loop over a store in memory and a kernel in memory: what serves, when, and after which faults."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from svcnet.agent import Agent
from svcnet.endpoints import Networks
from svcnet.env import EnvFiles
from svcnet.iptables.desired import Minion
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.reach import Look, Reach, Reaches
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.tracer import Packet, trace
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.frontend import Frontend
from svcnet.model.meta import Key, Meta, pairs
from svcnet.model.service import Service, ServicePort
from svcnet.parts import Parts
from svcnet.status.metrics import Metrics
from svcnet.store.memory import MemoryStore
from svcnet.tracker import Tracker
from svcnet.virtual_ip import Allocation


def service(name: str, ip: str) -> Service:
    return Service(Meta(name, "default"), (ServicePort(80),), cluster_ips=(ip,))


def slice_of(name: str, *ips: str, protocol: str = "TCP") -> EndpointSlice:
    labels = pairs({"kubernetes.io/service-name": name})
    ends = tuple(SliceEndpoint((ip,)) for ip in ips)
    return EndpointSlice(
        Meta(f"{name}-1", "default", labels), endpoints=ends, ports=(EndpointPort(8080, protocol=protocol),)
    )


class House:
    """An agent with everything it needs, and eyes for what it did."""

    def __init__(self, state_dir: Path, kernel: FakeKernel | None = None) -> None:
        self.store = MemoryStore(Allocation((ip_network("10.0.0.0/16"),)))
        self.kernel = kernel or FakeKernel()
        self.env = state_dir / "env"
        self.told: list[str] = []
        path = Nftables(self.kernel, (Parameters(4, ("10.0.0.0/16",)),))
        parts = Parts(
            self.store,
            Tracker(Networks([])),
            lambda _node: Minion("m1"),
            Metrics(),
            path,
            env=EnvFiles(self.env),
            state_dir=state_dir,
        )
        parts.on_ready = self.told.append
        parts.foreign, parts.watch_seconds = path.changed_by_others, 0.01
        self.agent = Agent(parts)

    def reached(self, ip: str) -> list[str] | str:
        """Endpoint addresses behind a virtual IP, or the verdict."""
        if 4 not in self.kernel.tables:
            return "no table"
        outcome = trace(self.kernel, Packet("10.9.9.9", ip, "tcp", 80))
        return sorted(a.address for a in outcome.arrivals) if outcome.arrivals else outcome.verdict

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; its last value is in the failure."""
        for _ in range(12_000):  # a minute
            if condition():
                return
            await asyncio.sleep(0.005)
        pytest.fail(f"never came true; state {self.agent.state}")


def live(house: House, story: Callable[[House], Awaitable[None]]) -> None:
    """Run the agent while a story happens."""

    async def both() -> None:
        task = asyncio.create_task(house.agent.run())
        try:
            await story(house)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await house.agent.checkpoint.now()

    asyncio.run(both())


def test_a_change_in_the_store_reaches_the_kernel(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        h.store.put(slice_of("web", "10.1.0.3"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.3"])
        h.store.delete(Key("Service", "default", "web"))
        await h.until(lambda: h.reached("10.0.0.5") == "dropped")
        await h.until(lambda: h.agent.state.revision_applied == h.store.rev)
        assert h.told == [""]

    live(House(tmp_path), story)


def test_a_burst_ends_in_the_last_state_with_few_commits(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"))
        await h.until(lambda: h.reached("10.0.0.5") == "refused")
        before = len(h.kernel.log)
        for i in range(500):
            h.store.put(slice_of("web", f"10.1.{i // 250}.{i % 250 + 1}"))
            if i % 10 == 0:
                await asyncio.sleep(0)
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.1.250"])
        assert len(h.kernel.log) - before < 100

    live(House(tmp_path), story)


def test_with_the_store_away_the_last_state_serves_and_status_tells_it(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        h.store.lose("cable cut")
        await h.until(lambda: h.agent.state.away == "cable cut")
        assert h.reached("10.0.0.5") == ["10.1.0.2"]
        h.store.recover()
        await h.until(lambda: h.agent.state.away_since is None)
        assert h.reached("10.0.0.5") == ["10.1.0.2"]

    live(House(tmp_path), story)


def test_a_start_without_the_store_serves_the_checkpoint(tmp_path: Path) -> None:
    async def first(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.agent.state.synced and h.reached("10.0.0.5") == ["10.1.0.2"])

    async def second(h: House) -> None:
        h.store.lose("not yet up")
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        await h.until(lambda: h.told)
        assert "checkpoint" in h.told[0]
        assert not h.agent.state.synced
        await h.until((h.env / "default.env").exists)
        h.store.recover()
        await h.until(lambda: h.agent.state.synced)
        await h.until(lambda: h.reached("10.0.0.5") == "dropped")

    live(House(tmp_path), first)
    live(House(tmp_path), second)


def test_a_start_without_store_and_checkpoint_leaves_the_kernel_alone(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.lose("not yet up")
        await h.until(lambda: h.agent.state.away)
        assert h.reached("10.0.0.5") == "no table"
        assert h.told == []
        h.store.recover()
        h.store.put(service("web", "10.0.0.5"))
        await h.until(lambda: h.reached("10.0.0.5") == "refused")

    live(House(tmp_path), story)


def test_an_emptied_store_is_held_also_against_the_checkpoint_until_released(tmp_path: Path) -> None:
    async def first(h: House) -> None:
        h.store.put(*(service(f"s{i}", f"10.0.1.{i}") for i in range(12)))
        await h.until(lambda: h.reached("10.0.1.11") == "refused")

    async def second(h: House) -> None:
        await h.until(lambda: h.agent.tracker.held)
        assert h.reached("10.0.1.11") == "refused"
        assert await h.agent.release() == "released: 12 of 12 services deleted"
        assert h.reached("10.0.1.11") == "dropped"

    kernel = FakeKernel()
    live(House(tmp_path, kernel), first)
    live(House(tmp_path, kernel), second)


def test_a_kernel_error_is_told_and_mended_by_reading_back(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        h.kernel.fail_after = len(h.kernel.log)
        h.store.put(slice_of("web", "10.1.0.3"))
        await h.until(lambda: h.agent.state.last_error)
        assert h.agent.state.oldest_unapplied is not None
        assert h.reached("10.0.0.5") == ["10.1.0.2"]
        h.kernel.fail_after = None
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.3"])
        await h.until(lambda: h.agent.state.oldest_unapplied is None)

    live(House(tmp_path), story)


def test_our_table_deleted_by_somebody_else_comes_back_with_the_next_change(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), service("api", "10.0.0.6"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        h.kernel.remove(4)
        h.store.put(slice_of("web", "10.1.0.3"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.3"])
        assert h.reached("10.0.0.6") == "refused"
        await h.until(lambda: h.agent.state.drift == 1)

    live(House(tmp_path), story)


def test_what_somebody_else_deletes_comes_back_while_the_records_are_quiet(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        h.kernel.remove(4)
        h.kernel.others += 1
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        await h.until(lambda: h.agent.state.drift == 1)
        assert h.agent.state.last_error == ""

    live(House(tmp_path), story)


class Table:
    """A connection table with one flow, to a virtual IP."""

    def __init__(self) -> None:
        self.front = Frontend(4, "10.0.0.5", "udp", 80)
        self.swept: list[Reaches] = []

    def clean(self, wanted: Reaches) -> int:
        return 0

    def sweep(self, look: Look) -> int:
        self.swept.append(look([self.front]))
        return 0


def test_all_udp_flows_are_looked_at_again_and_again(tmp_path: Path) -> None:
    table = Table()

    async def story(h: House) -> None:
        h.store.put(udp, slice_of("web", "10.1.0.2", protocol="UDP"))
        here = frozenset({("10.1.0.2", 8080)})
        await h.until(lambda: len(table.swept) > 3 and table.swept[-1] == {table.front: Reach(here, here)})
        h.store.delete(Key("Service", "default", "web"))
        await h.until(lambda: table.swept[-1] == {})

    udp = Service(Meta("web", "default"), (ServicePort(80, protocol="UDP"),), cluster_ips=("10.0.0.5",))
    house = House(tmp_path)
    house.agent.parts.flows, house.agent.parts.sweep_seconds = table, 0.01
    live(house, story)


def test_problems_of_the_store_are_left_out_until_mended(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"))
        h.store.report("bad.json:3", "port: 70000")
        await h.until(lambda: [i.what for i in h.agent.left_out()] == ["bad.json:3"])
        h.store.report("bad.json:3", "")
        await h.until(lambda: h.agent.left_out() == ())

    live(House(tmp_path), story)


def test_env_files_follow_services_and_not_endpoints(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"))
        file = h.env / "default.env"
        await h.until(file.exists)
        assert "WEB_SERVICE_HOST=10.0.0.5" in file.read_text()
        inode = file.stat().st_ino
        h.store.put(slice_of("web", "10.1.0.3"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.3"])
        h.store.put(service("api", "10.0.0.6"))
        await h.until(lambda: "API_SERVICE_PORT=80" in file.read_text())
        assert file.stat().st_ino != inode

    live(House(tmp_path), story)


def test_a_load_is_under_way_from_the_first_record_to_the_first_sync_and_not_while_the_store_is_away(
    tmp_path: Path,
) -> None:
    async def story(h: House) -> None:
        seen: list[bool] = []
        look = h.agent.tracker.fold
        h.agent.tracker.fold = lambda events: seen.append(h.agent.is_loading) or look(events)  # type: ignore[method-assign,func-returns-value]  # the moment between both
        await h.until(lambda: h.told)
        assert seen[:1] == [True]
        assert not h.agent.is_loading
        h.store.lose("cable cut")
        await h.until(lambda: h.agent.state.away)
        assert not h.agent.is_loading

    house = House(tmp_path)
    house.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
    assert not house.agent.is_loading
    live(house, story)


def test_a_failing_kernel_is_told_with_its_batch_and_the_age_grows(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        h.kernel.fail_after = len(h.kernel.log)
        h.store.put(slice_of("web", "10.1.0.3"))
        state = h.agent.state
        await h.until(lambda: state.last_error)
        assert state.last_error_batch.total == 1
        (line,) = state.last_error_batch.lines
        assert line == "~ 10.0.0.5 tcp/80 → 10.1.0.2:8080 (default/web tcp/80) ⇒ 10.1.0.3:8080 (default/web tcp/80)"
        began = state.behind_since
        before = state.last_error_at
        await h.until(lambda: state.last_error_at != before)  # tried again: what the kernel still lacks
        await h.until(lambda: state.last_error_batch.lines == (line,))
        assert state.behind_since == began
        h.kernel.fail_after = None
        await h.until(lambda: state.behind_since is None)
        assert state.last_error_batch.lines == (line,), "it stays until the next error"

    live(House(tmp_path), story)


def test_a_repair_that_fails_makes_the_minion_late_though_no_record_changed(tmp_path: Path) -> None:
    async def story(h: House) -> None:
        h.store.put(service("web", "10.0.0.5"), slice_of("web", "10.1.0.2"))
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        elements = h.kernel.tables[4].maps["classes"]
        elements.clear()
        h.kernel.fail_after = len(h.kernel.log)
        h.kernel.others += 1
        await h.until(lambda: h.agent.state.behind_since is not None and h.agent.state.last_error)
        await h.until(lambda: h.agent.state.last_error_batch.total == 1)
        h.kernel.fail_after = None
        await h.until(lambda: h.reached("10.0.0.5") == ["10.1.0.2"])
        await h.until(lambda: h.agent.state.behind_since is None)

    live(House(tmp_path), story)
