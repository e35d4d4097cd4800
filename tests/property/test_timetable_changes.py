"""Cron across every change of every zone's clock from 2020 to 2035, held against a second calculation."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskq.timetable import Cron
from taskq.timetable.base import TICK
from taskq.timetable.zone import zone_named
from tests.property.crons import Case, cases
from tests.property.slow_cron import FIRST, LAST, MINUTE, ZONES, Change, Meaning, changes, firings, walk_around, walls

CHUNKS = 12  # so that workers share the zones

EVERY_HOUR = set(range(24))


def case(text: str, minutes: set[int], hours: set[int], wildcard: bool) -> Case:
    return Case(text, Meaning(frozenset(minutes), frozenset(hours), wildcard))


# Around the hours at which clocks are changed: 0 to 4 in most zones, by noon in UTC+12 and beyond.
CASES = [
    case("*/15 * * * *", {0, 15, 30, 45}, EVERY_HOUR, True),
    case("0 */2 * * *", {0}, set(range(0, 24, 2)), True),
    case("*/20 1-3 * * *", {0, 20, 40}, {1, 2, 3}, True),
    case("5 0-23 * * *", {5}, EVERY_HOUR, True),
    case("30 2 * * *", {30}, {2}, False),
    case("0 0 * * *", {0}, {0}, False),
    case("15,45 0-4 * * *", {15, 45}, {0, 1, 2, 3, 4}, False),
    case("0-59/10 23,1,2,3 * * *", {0, 10, 20, 30, 40, 50}, {23, 1, 2, 3}, False),
    case("59 1-3 * * *", {59}, {1, 2, 3}, False),
]


@lru_cache(maxsize=4096)
def expected_around(number: int, name: str, change: Change) -> list[datetime]:
    """The firings of a case from two hours before a change to eight hours after it."""
    start = change.at - timedelta(hours=2)
    return [instant for instant in firings(CASES[number].meaning, walk_around(name, change)) if instant >= start]


def backwards(cron: Cron, start: datetime, end: datetime) -> list[datetime]:
    """The same as `between`, from the other end."""
    found, instant = [], cron.previous_before(end + TICK)
    while instant is not None and instant >= start:
        found.append(instant)
        instant = cron.previous_before(instant)
    return found[::-1]


def known_changes(name: str) -> tuple[Change, ...]:
    """The changes of a zone's offset that cron knows of."""
    found, before = [], None
    for stretch in zone_named(name).stretches_from(FIRST.replace(tzinfo=None)):
        if before is not None and stretch.offset != before:
            found.append(Change(stretch.start.replace(tzinfo=FIRST.tzinfo), before, stretch.offset))
        before = stretch.offset
        if stretch.end >= LAST.replace(tzinfo=None):
            break
    return tuple(found)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_change_of_every_zone(chunk: int) -> None:
    """Each is known to the second; there a time of the day comes once, and a wildcard keeps to real time."""
    seen = 0
    for name in ZONES[chunk::CHUNKS]:
        assert known_changes(name) == changes(name), name
        for number, change in enumerate(changes(name)):
            start, end = change.at - timedelta(hours=2), change.at + timedelta(hours=8)
            for which in (number % len(CASES), (number + 4) % len(CASES)):
                cron = Cron(CASES[which].text, name)
                wanted = expected_around(which, _first_with(change, name), change)
                assert cron.between(start - TICK, end, 1000) == wanted, (cron, change)
                assert backwards(cron, start, end) == wanted, (cron, change)
                seen += 1
    assert seen >= 100


_FIRST_WITH: dict[Change, str] = {}


def _first_with(change: Change, name: str) -> str:
    """One of the zones that make this very change: many share it, and the wall shows the same in all of them."""
    return _FIRST_WITH.setdefault(change, name)


zones = st.sampled_from(ZONES)
instants = st.datetimes(datetime(2020, 1, 3), datetime(2035, 12, 28), timezones=st.just(FIRST.tzinfo))


@st.composite
def spans(draw: st.DrawFn) -> tuple[str, datetime, timedelta]:
    """A zone, an instant (as often as not one around which its clock is changed), and some hours."""
    name = draw(zones)
    instant = draw(instants).replace(second=0, microsecond=0)
    if changes(name) and draw(st.booleans()):
        instant = draw(st.sampled_from(changes(name))).at - draw(st.integers(-120, 1200)) * MINUTE
    return name, instant, draw(st.integers(1, 30)) * 60 * MINUTE


@settings(max_examples=100)
@given(case=cases(), span=spans())
def test_any_cron_in_any_zone(case: Case, span: tuple[str, datetime, timedelta]) -> None:
    """Whatever the cron, the zone and the time, the firings are those of the second calculation."""
    check(case, *span)


@settings(max_examples=100)
@given(case=cases(every_day=True), span=spans())
def test_any_time_of_the_day_in_any_zone(case: Case, span: tuple[str, datetime, timedelta]) -> None:
    """The same for crons that fire every day, so that many fire in the span."""
    check(case, *span)


def check(case: Case, name: str, start: datetime, length: timedelta) -> None:
    end = start + length
    run_up = start - timedelta(hours=8)
    walk = list(walls(name, run_up, end))
    wanted = [instant for instant in firings(case.meaning, walk) if start <= instant <= end]
    try:
        cron = Cron(case.text, name)
    except ValueError:
        assert wanted == []  # a day that never comes, of which test_timetable_crons knows more
        return
    wanted = wanted[:500]
    assert cron.between(start - TICK, end, 500) == wanted
    if len(wanted) < 500:
        assert backwards(cron, start, end) == wanted
