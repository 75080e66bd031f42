"""The packet table, row by row, through every runner."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.flows.flow import Case, complaint
from tests.flows.rows import FLOWS
from tests.flows.rows_service import SERVICE_FLOWS
from tests.flows.runner import RUNNERS, Result, Runner, expectation
from tests.flows.world import WORLDS

CASES = [Case(flow, family) for flow in (*FLOWS, *SERVICE_FLOWS) for family in flow.families]


def marks(runner: str, case: Case | None = None) -> list[pytest.MarkDecorator]:
    if runner == "tracer":
        return []
    return [pytest.mark.kernel, *(pytest.mark.needs(name) for name in (case.flow.needs if case else ()))]


class Results:
    """Each world is run once a runner, with those of its rows that are collected."""

    def __init__(self, stack: ExitStack, collected: list[pytest.Item]) -> None:
        self._stack = stack
        self._params = [item.callspec.params for item in collected if hasattr(item, "callspec")]
        self._runners: dict[str, Runner] = {}
        self._done: dict[tuple[str, str], Result | Exception] = {}

    def of(self, runner: str, world: str) -> Result:
        if (runner, world) not in self._done:
            try:
                self._done[runner, world] = self._run(runner, world)
            except Exception as error:  # noqa: BLE001 - the same one for each row, rather than a try a row
                self._done[runner, world] = error
        result = self._done[runner, world]
        if isinstance(result, Exception):
            raise result
        return result

    def _run(self, name: str, world: str) -> Result:
        if name not in self._runners:
            self._runners[name] = self._stack.enter_context(RUNNERS[name]())
        collected = {p["case"] for p in self._params if p.get("runner") == name and "case" in p}
        cases = [case for case in CASES if case in collected and case.flow.world == world]
        return self._runners[name].run(WORLDS[world], cases)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    with ExitStack() as stack:
        yield Results(stack, request.session.items)


@pytest.mark.parametrize(
    ("runner", "case"),
    [
        pytest.param(runner, case, id=f"{runner}: {case}", marks=marks(runner, case))
        for runner in RUNNERS
        for case in CASES
    ],
)
def test_packet(runner: str, case: Case, results: Results) -> None:
    assert not complaint(expectation(runner, case.flow), results.of(runner, case.flow.world).seen[case])


@pytest.mark.parametrize(
    ("runner", "world"),
    [
        pytest.param(runner, world, id=f"{runner}: {world}", marks=marks(runner))
        for runner in RUNNERS
        for world in WORLDS
    ],
)
def test_a_second_sync_finds_nothing_to_do(runner: str, world: str, results: Results) -> None:
    assert not results.of(runner, world).drift


def test_rows_have_names_of_their_own() -> None:
    assert not [name for name, number in Counter(map(str, CASES)).items() if number > 1]
