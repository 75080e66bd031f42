"""When a sync may begin, and how long a failed one is waited for."""

import pytest

from svcnet.pacing import MAX_SECONDS, Backoff, Pacing


def test_the_first_change_of_a_quiet_time_goes_out_at_once() -> None:
    pacing = Pacing()
    assert pacing.delay(0.0) == 0.0
    pacing.synced(0.0)
    assert pacing.delay(0.0) == 0.0  # and so does the second
    now = 0.0
    for _ in range(20):
        now += pacing.delay(now)
        pacing.synced(now)
    assert pacing.delay(now) == pytest.approx(MAX_SECONDS)
    assert pacing.delay(now + 2 * MAX_SECONDS) == 0.0
    pacing.synced(now + 100 * MAX_SECONDS)
    assert pacing.delay(now + 100 * MAX_SECONDS) == 0.0


def test_a_burst_of_a_second_is_few_syncs() -> None:
    """500 changes, 2 ms apart: each either goes out or waits for the next sync."""
    pacing, syncs, waits = Pacing(), 0, False
    for millisecond in range(1100):
        now = millisecond / 1000
        waits |= millisecond < 1000 and millisecond % 2 == 0
        if waits and not pacing.delay(now):
            pacing.synced(now)
            syncs, waits = syncs + 1, False
    assert not waits
    assert syncs < 25


def test_failures_are_waited_for_longer_and_longer_until_one_works() -> None:
    backoff = Backoff()
    assert [backoff.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.worked()
    assert backoff.failed() == 0.5
