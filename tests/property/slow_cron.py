"""A second calculation of cron, to hold the first one against: slow, and too simple to be wrong in the same way.

It walks through UTC minute by minute, asks zoneinfo what the wall shows, and applies the rules as cron(8) words them.
No text is read here: whoever writes a cron says what it means beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

MINUTE = timedelta(minutes=1)
THREE_HOURS = timedelta(hours=3)
FIRST, LAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)

# "localtime" is a file of the machine's own, and no zone of IANA's.
ZONES = sorted(available_timezones() - {"localtime"})


@dataclass(frozen=True)
class Meaning:
    """What a cron text is to mean: sets of numbers, which days fit, and whether it is a wildcard."""

    minutes: frozenset[int]
    hours: frozenset[int]
    wildcard: bool
    day: Callable[[date], bool] = lambda day: True
    seconds: frozenset[int] = frozenset({0})

    def fits(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.day(wall.date())


@dataclass(frozen=True)
class Change:
    """A zone's clock was put from one offset to another: `at` is the first instant with the later one."""

    at: datetime
    before: timedelta
    after: timedelta


def offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    found = instant.astimezone(zone).utcoffset()
    assert found is not None
    return found


@cache
def changes(name: str, first: datetime = FIRST, last: datetime = LAST) -> tuple[Change, ...]:
    """Every change of a zone's offset in that span, by looking at it every three days."""
    zone, found = ZoneInfo(name), []
    while first < last:
        low, high = first, min(first + timedelta(days=3), last)
        before, after = offset(zone, low), offset(zone, high)
        if before != after:
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=(high - low).total_seconds() // 2)
                low, high = (middle, high) if offset(zone, middle) == before else (low, middle)
            found.append(Change(high, before, after))
        first += timedelta(days=3)
    return tuple(found)


def walls(name: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Each minute from start to end, and what the wall shows then."""
    zone, instant = ZoneInfo(name), start
    while instant <= end:
        yield instant, instant.astimezone(zone).replace(tzinfo=None)
        instant += MINUTE


def firings(meaning: Meaning, walk: list[tuple[datetime, datetime]]) -> list[datetime]:
    """The instants of a walk at which the cron fires.

    What the wall showed before the walk is not known, so a walk begins hours before what is looked at.
    """
    found: list[datetime] = []
    shown: set[datetime] = set()
    expected = walk[0][1]
    for instant, wall in walk:
        if abs(wall - expected) > THREE_HOURS:
            shown.clear()  # a correction of the calendar
        elif wall > expected and not meaning.wildcard:
            skipped = [expected + n * MINUTE for n in range((wall - expected) // MINUTE)]
            if any(meaning.fits(one) for one in skipped if one not in shown):
                found.append(instant)
        if meaning.fits(wall) and (meaning.wildcard or wall not in shown):
            found.extend(instant + timedelta(seconds=second) for second in meaning.seconds)
        shown.add(wall)
        expected = wall + MINUTE
    return sorted(set(found))


@lru_cache(maxsize=2048)
def walk_around(name: str, change: Change) -> list[tuple[datetime, datetime]]:
    """Twelve hours before the change to eight hours after it."""
    return list(walls(name, change.at - timedelta(hours=12), change.at + timedelta(hours=8)))
