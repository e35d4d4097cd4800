"""Policies: bounds, jitter, and what becomes of instants that were missed."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskq.errors import InvalidSchedule
from taskq.timetable import EPOCH, MOST_CAUGHT_UP, Cron, Due, Every, Once, Plan

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTELY = Cron("* * * * *")


def minutes(*numbers: float) -> list[datetime]:
    """Instants so many minutes from noon."""
    return [NOON + timedelta(minutes=number) for number in numbers]


def minute(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


# -- what fires now -----------------------------------------------------------------------------------


def test_nothing_is_due() -> None:
    """Before its time nothing fires, nothing moves, and the time to ask again is told."""
    assert Plan(MINUTELY).due("a", seen=NOON, now=minute(0.99)) == Due((), NOON, minute(1))


def test_an_instant_is_due() -> None:
    """At its time, to the microsecond, an instant fires, and has been dealt with."""
    due = Plan(MINUTELY, catch_up="skip").due("a", seen=NOON, now=minute(1))
    assert due == Due((minute(1),), minute(1), minute(2))
    assert Plan(MINUTELY).due("a", seen=due.seen, now=minute(1)).instants == ()


@pytest.mark.parametrize(
    ("catch_up", "fired", "missed"),
    [("skip", [], minute(1)), ("last", [4], minute(1)), ("all", [1, 2, 3, 4], None)],
)
def test_a_beat_that_slept(catch_up: Any, fired: list[int], missed: datetime | None) -> None:
    """After a pause the missed instants are dropped, or the newest fires, or each; all have been dealt with then."""
    due = Plan(MINUTELY, catch_up=catch_up).due("a", seen=NOON, now=minute(4.5))
    assert due == Due(tuple(minutes(*fired)), minute(4), minute(5), missed)


@pytest.mark.parametrize(("catch_up", "fired"), [("skip", [4]), ("last", [4]), ("all", [1, 2, 3, 4])])
def test_what_is_hardly_late_is_on_time(catch_up: Any, fired: list[int]) -> None:
    """An instant within the grace fires whatever the policy, and then stands in for those before it."""
    due = Plan(MINUTELY, catch_up=catch_up).due("a", seen=NOON, now=minute(4) + timedelta(seconds=9))
    assert list(due.instants) == minutes(*fired)


def test_a_change_of_leader_costs_nothing() -> None:
    """Several instants within the grace all fire, also under "last" and "skip": nobody slept."""
    for policy in ("skip", "last"):
        due = Plan(Every(1), catch_up=policy).due("a", seen=NOON, now=NOON + timedelta(seconds=5), grace=10)
        assert list(due.instants) == [NOON + timedelta(seconds=n) for n in (1, 2, 3, 4, 5)]


def test_bound() -> None:
    """No more than the limit fire at once, the newest; the oldest that does not is told."""
    due = Plan(MINUTELY, catch_up="all", catch_up_limit=3).due("a", seen=NOON, now=minute(10000))
    assert due == Due(tuple(minutes(9998, 9999, 10000)), minute(10000), minute(10001), missed=minute(1))


def test_a_week_of_seconds_is_quick_to_catch_up_with() -> None:
    """What was missed is not walked through one by one: ten years of seconds are dropped at once."""
    due = Plan(Every(1), catch_up="last").due("a", seen=NOON, now=NOON + timedelta(days=3650))
    assert len(due.instants) == 11 and due.missed == NOON + timedelta(seconds=1)


def test_clock_put_back() -> None:
    """A clock that was put back by an hour fires nothing again; it goes on where it had been."""
    due = Plan(MINUTELY, catch_up="all").due("a", seen=NOON, now=minute(-60))
    assert due == Due((), NOON, minute(1))


def test_paused_hours_around_a_change_of_the_clock() -> None:
    """Catching up over the night in which an hour is repeated brings a time of the day once."""
    plan = Plan(Cron("30 2 * * *", "Europe/Berlin"), catch_up="all")
    seen = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert plan.due("a", seen=seen, now=seen + timedelta(days=1)).instants == (
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
    )


# -- bounds -------------------------------------------------------------------------------------------


def test_start_and_end() -> None:
    """Instants fire from the start to the end, both included, and never again after."""
    plan = Plan(MINUTELY, catch_up="all", starts_at=minute(3), ends_at=minute(5))
    assert plan.upcoming(EPOCH, 10) == minutes(3, 4, 5)
    assert plan.due("a", seen=NOON, now=minute(1)) == Due((), NOON, minute(3))
    assert plan.due("a", seen=NOON, now=minute(60)) == Due(tuple(minutes(3, 4, 5)), minute(5), None)
    assert plan.due("a", seen=minute(5), now=minute(60)) == Due((), minute(5), None)


def test_maximum_runs() -> None:
    """After so many runs there is none any more, and catching up does not exceed them."""
    plan = Plan(MINUTELY, catch_up="all", max_runs=3)
    assert plan.upcoming(NOON, 10) == minutes(1, 2, 3)
    assert plan.upcoming(NOON, 10, runs=2) == minutes(1)
    assert plan.next_after(NOON, runs=3) is None
    due = plan.due("a", seen=NOON, now=minute(10), runs=1)
    assert due.instants == tuple(minutes(1, 2)) and due.next_at is None
    assert plan.due("a", seen=minute(10), now=minute(20), runs=3) == Due((), minute(10), None)


def test_skipped_instants_are_no_runs() -> None:
    """An instant that was dropped does not count as a run."""
    due = Plan(MINUTELY, catch_up="skip", max_runs=1).due("a", seen=NOON, now=minute(4.5))
    assert due == Due((), minute(4), minute(5), missed=minute(1))


def test_once() -> None:
    """A single instant fires once; one that was missed follows the policy, too."""
    assert Plan(Once(NOON)).due("a", seen=minute(-1), now=NOON) == Due((NOON,), NOON, None)
    assert Plan(Once(NOON)).due("a", seen=NOON, now=minute(1)) == Due((), NOON, None)
    assert Plan(Once(NOON)).due("a", seen=minute(-1), now=minute(9)) == Due((NOON,), NOON, None)
    assert Plan(Once(NOON), catch_up="skip").due("a", seen=minute(-1), now=minute(9)) == Due((), NOON, None, NOON)


# -- jitter -------------------------------------------------------------------------------------------


def test_jitter_is_the_same_for_all_leaders() -> None:
    """The share of an instant depends on schedule and instant only: it is this one in every process and version."""
    plan = Plan(Cron("0 * * * *"), jitter=600)
    # The first 8 bytes of blake2b("report\n1795262400000"), as a share of 2**64, of 600 seconds.
    assert plan.fires_at("report", NOON) == NOON + timedelta(milliseconds=58_363)
    assert plan.fires_at("other", NOON) != plan.fires_at("report", NOON)
    assert plan.fires_at("report", minute(60)) != plan.fires_at("report", NOON) + timedelta(hours=1)


def test_jitter_spreads() -> None:
    """A hundred schedules at one time are spread over all of the jitter."""
    plan = Plan(Cron("0 * * * *"), jitter=600)
    offsets = [(plan.fires_at(f"schedule-{n}", NOON) - NOON).total_seconds() for n in range(100)]
    assert len({int(offset // 60) for offset in offsets}) == 10
    assert 0 <= min(offsets) and max(offsets) < 600


def test_jitter_puts_off() -> None:
    """With jitter an instant fires later, is on time then, and comes before the next one."""
    plan = Plan(MINUTELY, jitter=86400, catch_up="skip")
    at = plan.fires_at("a", minute(1))
    assert minute(1) < at < minute(2)
    before = plan.due("a", seen=NOON, now=at - timedelta(milliseconds=1), grace=1)
    assert before == Due((), NOON, at)
    due = plan.due("a", seen=NOON, now=at, grace=1)
    assert due == Due((minute(1),), minute(1), plan.fires_at("a", minute(2)))


def test_jitter_and_catching_up() -> None:
    """An instant whose jitter is not over waits for it, also while those before it are caught up with."""
    plan = Plan(MINUTELY, jitter=60, catch_up="all")
    at = plan.fires_at("a", minute(3))
    due = plan.due("a", seen=NOON, now=at - timedelta(milliseconds=1))
    assert due == Due(tuple(minutes(1, 2)), minute(2), at)


def test_a_single_instant_has_all_of_its_jitter() -> None:
    """An instant that no other follows is put off by up to the whole jitter."""
    found = [Plan(Once(NOON), jitter=3600).fires_at(str(n), NOON) - NOON for n in range(50)]
    assert max(found) > timedelta(minutes=45)


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timetable": "* * * * *"}, "needs a timetable"),
        ({"catch_up": "some"}, "catch_up is one of skip, last, all"),
        ({"catch_up": None}, "catch_up is one of"),
        ({"catch_up_limit": 0}, "catch_up_limit is from 1 to"),
        ({"catch_up_limit": MOST_CAUGHT_UP + 1}, "catch_up_limit is from 1 to"),
        ({"catch_up_limit": True}, "catch_up_limit is from 1 to"),
        ({"jitter": -1}, "jitter is from 0 to 86400"),
        ({"jitter": float("nan")}, "jitter is from 0"),
        ({"jitter": 86401}, "jitter is from 0"),
        ({"jitter": "5"}, "jitter is a number"),
        ({"max_runs": 0}, "max_runs is 1 or more"),
        ({"max_runs": 1.5}, "max_runs is 1 or more"),
        ({"starts_at": datetime(2026, 1, 1)}, "starts_at needs a zone"),
        ({"ends_at": "tomorrow"}, "ends_at is a datetime"),
        ({"starts_at": NOON, "ends_at": minute(-1)}, "ends_at .* is before starts_at"),
        ({"starts_at": minute(0.1), "ends_at": minute(0.9)}, "would never fire"),
        ({"timetable": Once(NOON), "starts_at": minute(1)}, "would never fire"),
        ({"timetable": Once(NOON), "ends_at": minute(-1)}, "would never fire"),
    ],
)
def test_refused(options: dict[str, Any], told: str) -> None:
    """A policy that cannot be, and bounds between which nothing fires, are refused when the plan is made."""
    with pytest.raises(InvalidSchedule, match=told):
        Plan(**{"timetable": MINUTELY, **options})


def test_plans_are_values() -> None:
    """Plans that mean the same are equal, and can be pickled."""
    plan = Plan(Cron("TZ=Europe/Paris 0 9 * * *"), jitter=5, starts_at=NOON)
    assert (
        plan == Plan(Cron("0 9 * * *", "Europe/Paris"), jitter=5.0, starts_at=NOON) == pickle.loads(pickle.dumps(plan))
    )
    assert len({plan, pickle.loads(pickle.dumps(plan))}) == 1
