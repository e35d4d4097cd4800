"""Intervals and single instants."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from taskq.errors import InvalidSchedule
from taskq.timetable import EPOCH, LATEST, Every, Once

START = datetime(2026, 3, 28, 12, tzinfo=UTC)


def test_counts_from_its_start() -> None:
    """An interval's first instant is its start, the others are whole steps from it; nothing is before it."""
    every = Every(90, START)
    assert every.next_after(EPOCH) == START
    assert every.next_after(START) == START + timedelta(seconds=90)
    assert every.next_after(START + timedelta(seconds=89.999999)) == START + timedelta(seconds=90)
    assert every.previous_before(START) is None
    assert every.previous_before(START + timedelta(seconds=90)) == START
    assert every.previous_before(START + timedelta(days=1, microseconds=1)) == START + timedelta(days=1)


def test_goes_by_real_time() -> None:
    """Two hours are two hours, also where a clock is put forward between."""
    found = Every(7200, START).between(START, START + timedelta(days=1), 100)
    assert {later - earlier for earlier, later in zip(found, found[1:], strict=False)} == {timedelta(hours=2)}
    assert len(found) == 12 and found[-1] == START + timedelta(days=1)


def test_without_a_start_it_is_the_clock() -> None:
    """All who say nothing of a start count from the epoch: a minute is a minute of the clock."""
    assert Every(60).next_after(START + timedelta(seconds=7)) == START + timedelta(minutes=1)
    assert Every(60) == Every(60.0) == Every(60, datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))))


def test_milliseconds() -> None:
    """Parts of a second add up without drifting, in whole milliseconds."""
    every = Every(1.1, START)
    found = every.between(START, START + timedelta(seconds=1100), 1000)
    assert len(found) == 1000 and found[-1] == START + timedelta(seconds=1100)
    assert Every(1.0004).seconds == 1.0
    assert Every(5, START.replace(microsecond=1999)).start == START.replace(microsecond=1000)


def test_limit_of_a_span() -> None:
    """A span ends at its end, or at the limit, and begins after its beginning."""
    every = Every(1, START)
    assert every.between(START, START + timedelta(days=365), 2) == [START + timedelta(seconds=n) for n in (1, 2)]
    assert every.between(START, START, 5) == every.between(START, START - timedelta(1), 5) == []
    assert every.between(START, START + timedelta(days=1), 0) == []


@pytest.mark.parametrize(
    "seconds",
    [0, -1, 0.999, float("nan"), float("inf"), -float("inf"), 1e300, 10**400, 3660 * 86400 + 1, True, None, "60", 1j],
)
def test_intervals_refused(seconds: Any) -> None:
    """What is no number of seconds from one to ten years is refused."""
    with pytest.raises(InvalidSchedule, match="an interval is") as caught:
        Every(seconds)
    assert len(str(caught.value)) < 200


def test_once() -> None:
    """A single instant is the next one before it, the previous one after it, and neither at it."""
    once = Once(datetime(2026, 3, 28, 14, tzinfo=timezone(timedelta(hours=2))))
    assert once == Once(START) == pickle.loads(pickle.dumps(once))
    assert once.next_after(EPOCH) == START and once.next_after(START) is None
    assert once.previous_before(LATEST) == START and once.previous_before(START) is None


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (datetime(2026, 1, 1), "needs a zone"),
        (datetime.max.replace(tzinfo=UTC), "from 1970 on and before 9999"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "outside of what can be computed"),
        (datetime(1969, 12, 31, tzinfo=UTC), "from 1970 on"),
        ("2026-01-01T00:00:00Z", "is a datetime"),
        (None, "is a datetime"),
    ],
)
def test_instants_refused(at: Any, told: str) -> None:
    """An instant without a zone, or one that nobody means, is refused: as itself, as a start, and in a question."""
    with pytest.raises(InvalidSchedule, match=told):
        Once(at)
    with pytest.raises(InvalidSchedule, match=told):
        Every(60, at)


def test_ends_of_time() -> None:
    """An interval ends before the year 9999, and asking about times beyond is no error."""
    every = Every(86400)
    last = LATEST - timedelta(days=1)
    assert every.next_after(last - timedelta(seconds=1)) == last
    assert every.next_after(last) is None
    assert every.next_after(datetime.max.replace(tzinfo=UTC)) is None
    assert every.previous_before(datetime.max.replace(tzinfo=UTC)) == last
    assert every.next_after(datetime.min.replace(tzinfo=UTC)) == EPOCH
