"""Time zones: what the clock on the wall shows, and when it is put forward or back.

Within this room an instant is a naive datetime in UTC, and a wall-clock time a naive datetime of the zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from taskq.errors import InvalidSchedule
from taskq.timetable.base import EPOCH, LATEST

# Debian's cron takes a change of the clock by more than this for a correction, and follows the new time.
LARGEST_SHIFT = timedelta(hours=3)

_MAX_NAME = 64
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)

# Names that mean another zone on every machine, or count leap seconds.
_NO_ZONES = ("localtime", "posixrules", "posix/", "right/")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A span of time with one offset from UTC; it ends with the year at the latest.

    start, end   instants; the end is the next one's start
    offset       from UTC to the wall
    shown_until  wall-clock times before this one were shown before: up to here they come again
    skipped_from wall-clock times from this one on and before the start's were skipped; None: none were
    """

    start: datetime
    end: datetime
    offset: timedelta
    shown_until: datetime
    skipped_from: datetime | None = None

    @property
    def first_wall(self) -> datetime:
        return self.start + self.offset

    @property
    def end_wall(self) -> datetime:
        return self.end + self.offset

    def follow(self, end: datetime, offset: timedelta) -> Stretch:
        """The stretch after this one, up to `end`."""
        wall = self.end + offset
        if abs(offset - self.offset) > LARGEST_SHIFT:
            return Stretch(self.end, end, offset, shown_until=wall)
        shown_until = max(self.end_wall, self.shown_until)
        return Stretch(self.end, end, offset, shown_until, shown_until if shown_until < wall else None)


class Zone:
    """A zone by its IANA name; `zone_named` makes them, one of each."""

    def __init__(self, info: ZoneInfo) -> None:
        self.name = info.key
        self._info = info
        self._years: dict[int, tuple[Stretch, ...]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return zone_named, (self.name,)

    def stretches_from(self, instant: datetime) -> Iterator[Stretch]:
        """The stretch that holds the instant, and those after it."""
        for year in range(instant.year, LATEST.year):
            for stretch in self._stretches(year):
                if instant < stretch.end:
                    yield stretch

    def stretches_until(self, instant: datetime) -> Iterator[Stretch]:
        """The stretch that holds the instant, and those before it, backwards."""
        for year in range(instant.year, EPOCH.year - 1, -1):
            for stretch in reversed(self._stretches(year)):
                if stretch.start <= instant:
                    yield stretch

    def _stretches(self, year: int) -> tuple[Stretch, ...]:
        found = self._years.get(year)
        if found is None:
            found = self._years[year] = tuple(self._find(datetime(year, 1, 1), datetime(year + 1, 1, 1)))
        return found

    def _find(self, start: datetime, end: datetime) -> Iterator[Stretch]:
        """The stretches of a span. The last change before it matters as well: its hours may come again within."""
        offset = self._offset(start - _DAY)
        stretch = Stretch(start - 2 * _DAY, start - _DAY, offset, shown_until=start - _DAY + offset)
        for change in [*self._changes(start - _DAY, end), end]:
            for part in (start, change) if stretch.end < start < change else (change,):
                stretch = stretch.follow(part, self._offset(stretch.end))
                if stretch.start >= start:
                    yield stretch

    def _changes(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Looks once a day: no zone has ever changed its offset and changed it back within one."""
        while start < end:
            if self._offset(start) != self._offset(start + _DAY):
                change = self._change(start, start + _DAY)
                if change < end:
                    yield change
            start += _DAY

    def _change(self, low: datetime, high: datetime) -> datetime:
        """The first second with the later offset; low still has the earlier one."""
        earlier = self._offset(low)
        while high - low > _SECOND:
            middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
            if self._offset(middle) == earlier:
                low = middle
            else:
                high = middle
        return high

    def _offset(self, instant: datetime) -> timedelta:
        offset = instant.replace(tzinfo=UTC).astimezone(self._info).utcoffset()
        assert offset is not None  # a ZoneInfo always knows
        return offset


def zone_named(name: str) -> Zone:
    """The zone of that name.

    Raises:
        InvalidSchedule: none is known by that name; the text offers those that are spelled alike.
    """
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME:
        raise InvalidSchedule(f"a time zone is an IANA name such as Europe/Paris, got {name!r:.80}")
    return _zone(name)


@cache  # there are some 600 of them
def _zone(name: str) -> Zone:
    try:
        if name.startswith(_NO_ZONES):
            raise ValueError(name)
        return Zone(ZoneInfo(name))
    except (KeyError, ValueError, OSError):  # not found, not a path within the data, a directory
        raise InvalidSchedule(f"unknown time zone {name!r}{_alike(name)}") from None


def _alike(name: str) -> str:
    known = {one.lower(): one for one in available_timezones() if not one.startswith(_NO_ZONES)}
    cities: dict[str, str] = {}
    for one in sorted(known, reverse=True):
        cities[one.rpartition("/")[2]] = one
    word = name.lower().replace(" ", "_")
    if word in known:
        return f": did you mean {known[word]}?"
    near = get_close_matches(word, known, n=3, cutoff=0.8)
    near += [cities[city] for city in get_close_matches(word.rpartition("/")[2], cities, n=2, cutoff=0.8)]
    names = list(dict.fromkeys(known[one] for one in near))[:3]
    return f": did you mean {' or '.join(names)}?" if names else "; zones have IANA names such as Europe/Paris"
