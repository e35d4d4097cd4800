"""Cron texts: five fields, or six with the seconds leading, read into sets of numbers.

    field  := item ("," item)*                    names (MON, JAN) in any case
    item   := "*" | "*/" step | number | number "/" step | number "-" number | number "-" number "/" step
    day    := item | "?" | "L"                    L: the last day of the month
    weekday:= item | "?" | number "#" nth | number "-" number "#" nth | "L" number | number "L"

`a/n` counts from a to the field's end. A range may wrap (`FRI-MON`, `22-2`). Weekdays are 0 to 7, Sunday being both.
When both day fields are given, a day that fits either will do, unless one of them begins with `*`: then both must fit.
That is Vixie's rule, letter by letter, with what follows from it: `*/100,1-7 * MON` is the first Monday.

A set is an int with a bit for each number: the next number of a set is a shift away.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from typing import NoReturn

from taskq.errors import InvalidSchedule

MAX_CHARS = 512

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_WEEKDAYS = {name: number for number, name in enumerate("SUN MON TUE WED THU FRI SAT".split())}
_MONTHS = {name: number for number, name in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), 1)}
_LAST = -1  # as a day of the month, or as the nth of a weekday


@dataclass(frozen=True, slots=True)
class _Field:
    """What may stand in one place of a cron text."""

    name: str
    low: int
    high: int
    names: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    @property
    def whole(self) -> int:
        """The set of all its numbers."""
        return (1 << self.high + 1) - (1 << self.low)


_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("weekday", 0, 6, _WEEKDAYS)
_FIVE = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)
_SIX = (_SECOND, *_FIVE)

# A step larger than these fields does not make a longer interval, as whoever writes */90 may think.
_STEPS_BOUNDED = (_SECOND, _MINUTE, _HOUR)

_WORD = re.compile(r"[^ ]+")
_ITEM = re.compile(
    r"(?P<low>\*|[A-Z]+|[0-9]+)(?:-(?P<high>[A-Z]+|[0-9]+))?(?:/(?P<step>[0-9]+))?(?:#(?P<nth>[0-9]+))?",
    re.IGNORECASE | re.ASCII,
)
_LAST_WEEKDAY = re.compile(r"L(?P<after>[A-Z]{3}|[0-9])|(?P<before>[A-Z]{3}|[0-9])L", re.IGNORECASE | re.ASCII)


# -- sets ---------------------------------------------------------------------------------------


def up(numbers: int, number: int) -> int | None:
    """The smallest of the set that is not below the number."""
    rest = numbers >> number
    return number + (rest & -rest).bit_length() - 1 if rest else None


def down(numbers: int, number: int) -> int | None:
    """The largest of the set that is not above the number."""
    rest = numbers & ((2 << number) - 1) if number >= 0 else 0
    return rest.bit_length() - 1 if rest else None


Step = Callable[[int, int], int | None]


# -- what a text means ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fields:
    """The wall-clock times that a cron text names.

    seconds, minutes, hours, months   sets
    days       for each shape of month (28 to 31 days, by the weekday of its first): the set of its days
    wildcard   minutes or hours are "any", or every so many: it follows real time when clocks change
    """

    seconds: int
    minutes: int
    hours: int
    months: int
    days: tuple[int, ...]
    wildcard: bool

    def first_from(self, wall: datetime, until: datetime) -> datetime | None:
        """The first time from `wall` on and before `until`; both naive, in whole seconds."""
        found = self._seek(up, 1, wall, until)
        return found if found is not None and found < until else None

    def last_until(self, wall: datetime, start: datetime) -> datetime | None:
        """The last time up to `wall`, and not before `start`; both naive, in whole seconds."""
        found = self._seek(down, -1, wall, start)
        return found if found is not None and found >= start else None

    def _seek(self, step: Step, toward: int, wall: datetime, bound: datetime) -> datetime | None:
        """The nearest time from `wall` on in the direction; None is sure to be beyond the bound."""
        if self.months >> wall.month & 1 and self._days_of(wall.year, wall.month) >> wall.day & 1:
            time = self._time(step, toward, wall.hour, wall.minute, wall.second)
            if time is not None:
                return datetime(wall.year, wall.month, wall.day, *time)
        day = self._day(step, toward, wall.date() + timedelta(days=toward), bound.date())
        if day is None:
            return None
        time = self._time(step, toward, *((0, 0, 0) if toward > 0 else (23, 59, 59)))
        assert time is not None  # no set is empty
        return datetime(day.year, day.month, day.day, *time)

    def _time(self, step: Step, toward: int, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """The nearest time of the same day."""
        edge = 0 if toward > 0 else 59
        if self.hours >> hour & 1:
            if self.minutes >> minute & 1 and (found := step(self.seconds, second)) is not None:
                return hour, minute, found
            if (found := step(self.minutes, minute + toward)) is not None:
                return hour, found, step(self.seconds, edge) or 0
        if (found := step(self.hours, hour + toward)) is not None:
            return found, step(self.minutes, edge) or 0, step(self.seconds, edge) or 0
        return None

    def _day(self, step: Step, toward: int, start: date, bound: date) -> date | None:
        """The nearest day, looked for until the month of the bound is over."""
        year, month, day = start.year, start.month, start.day
        last = bound.year * 12 + bound.month
        while (year * 12 + month - last) * toward <= 0:
            if self.months >> month & 1 and (found := step(self._days_of(year, month), day)) is not None:
                return date(year, month, found)
            month += toward
            if not 1 <= month <= 12:
                year, month = year + toward, 1 if toward > 0 else 12
            day = 1 if toward > 0 else 31
        return None

    def _days_of(self, year: int, month: int) -> int:
        first, length = monthrange(year, month)
        return self.days[(length - 28) * 7 + first]


# -- reading --------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def parse_cron(text: str) -> Fields:
    """Read a cron text without its zone.

    Raises:
        InvalidSchedule: it is none (the text says which field, and where), or no day ever fits it.
    """
    return _Reader(text).read()


class _Reader:
    """One text, read once."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self) -> Fields:
        meant = self.text
        if self.text.startswith("@"):
            if self.text.lower() not in ALIASES:
                self.fail(f"unknown alias (known: {', '.join(ALIASES)})")
            meant = ALIASES[self.text.lower()]
        words = [(match.start(), match.group()) for match in _WORD.finditer(meant)]
        if len(words) not in (5, 6):
            self.fail(
                "expected five fields (minute, hour, day, month, weekday), or six with the second leading, "
                f"got {len(words)}"
            )
        read = {}
        for kind, (at, word) in zip(_SIX if len(words) == 6 else _FIVE, words, strict=True):
            read[kind.name] = self.items(kind, at, word)
        starred = {name: at_word[1][0] in "*?" for name, at_word in zip(read, words, strict=True)}
        minutes, hours, months = (_set(read[kind.name]) for kind in (_MINUTE, _HOUR, _MONTH))
        days = _days(read["day"], read["weekday"], either=not (starred["day"] or starred["weekday"]))
        if not _ever(months, days):
            self.fail("no such day ever comes")
        return Fields(
            seconds=_set(read["second"]) if "second" in read else 1,
            minutes=minutes,
            hours=hours,
            months=months,
            days=days,
            wildcard=starred["minute"] or starred["hour"] or minutes == _MINUTE.whole or hours == _HOUR.whole,
        )

    def items(self, kind: _Field, at: int, word: str) -> _Items:
        """The numbers of a field, each with its nth (0: no matter which)."""
        if "?" in word:
            if kind not in (_DAY, _WEEKDAY) or word != "?":
                self.fail("'?' stands alone, and for the day or the weekday only", kind, at)
            word = "*"
        found: _Items = set()
        for item in word.split(","):
            found |= self.item(kind, at, item)
            at += len(item) + 1
        return found

    def item(self, kind: _Field, at: int, item: str) -> _Items:
        if not item:
            self.fail("expected a value", kind, at)
        if kind is _DAY and item in ("L", "l"):
            return {(_LAST, 0)}
        if kind is _WEEKDAY and (last := _LAST_WEEKDAY.fullmatch(item)):
            return {(self.number(kind, at, last["after"] or last["before"]) % 7, _LAST)}
        match = _ITEM.match(item)
        if match is None or match.end() < len(item):
            bad = match.end() if match else 0
            self.fail(f"{item[bad]!r} is not understood here{_hint(kind, item)}", kind, at + bad)
        nth = self.nth(kind, at, match)
        low, high = self.bounds(kind, at, match)
        return {(kind.low + (number - kind.low) % kind.size, nth) for number in range(low, high + 1, self.step(match))}

    def bounds(self, kind: _Field, at: int, match: re.Match[str]) -> tuple[int, int]:
        """The first and the last number of an item; the last may lie beyond the field, and then wraps."""
        if match["low"] == "*":
            if match["high"] or match["nth"]:
                self.fail(f"'*' takes a step and nothing else, got {match.group()!r}", kind, at)
            self.check_step(kind, at, match)
            return kind.low, kind.high
        low = self.number(kind, at, match["low"])
        self.check_step(kind, at, match)
        if match["high"] is None:
            return (low % 7 if kind is _WEEKDAY else low, kind.high) if match["step"] else (low, low)
        high = self.number(kind, at + match.start("high"), match["high"])
        return low, high if low <= high else high + kind.size

    def number(self, kind: _Field, at: int, word: str) -> int:
        if not word[0].isdigit():
            if word.upper() not in kind.names:
                known = f" (known: {', '.join(kind.names)})" if kind.names else ""
                self.fail(f"unknown name {word!r}{known}{_hint(kind, word)}", kind, at)
            return kind.names[word.upper()]
        number = int(word)
        high = 7 if kind is _WEEKDAY else kind.high
        if not kind.low <= number <= high:
            self.fail(f"{word} is not from {kind.low} to {high}", kind, at)
        return number

    def step(self, match: re.Match[str]) -> int:
        return int(match["step"] or 1)

    def check_step(self, kind: _Field, at: int, match: re.Match[str]) -> None:
        if match["step"] is None:
            return
        if self.step(match) == 0:
            self.fail("a step is 1 or more", kind, at + match.start("step"))
        if kind in _STEPS_BOUNDED and self.step(match) > kind.size:
            why = f"a step of {match['step']} never comes round: a {kind.name} is from {kind.low} to {kind.high}"
            self.fail(f"{why}; an interval (every=…) can be longer", kind, at + match.start("step"))

    def nth(self, kind: _Field, at: int, match: re.Match[str]) -> int:
        if match["nth"] is None:
            return 0
        if kind is not _WEEKDAY or match["step"]:
            self.fail("'#' follows a weekday only, as in MON#1, the first Monday", kind, at + match.start("nth") - 1)
        if not 1 <= int(match["nth"]) <= 5:
            self.fail(f"a month has one to five of a weekday, got #{match['nth']}", kind, at + match.start("nth"))
        return int(match["nth"])

    def fail(self, what: str, kind: _Field | None = None, at: int = 0) -> NoReturn:
        where = f"{kind.name} field, position {at + 1}: " if kind else ""
        raise InvalidSchedule(f"cron {self.text!r}: {where}{what}")


_Items = set[tuple[int, int]]


def _hint(kind: _Field, item: str) -> str:
    if kind is _WEEKDAY and item in ("L", "l"):
        return "; L goes with a weekday: L5, 5L or FRIL is the last Friday"
    if kind is _DAY and "W" in item.upper():
        return "; the nearest working day (W) is not supported"
    if item.upper().startswith(("H", "R")) and item.upper() not in kind.names:
        return "; a time by chance (H, R) is not supported, jitter is"
    return ""


def _set(items: Iterable[tuple[int, int]]) -> int:
    numbers = 0
    for number, _ in items:
        numbers |= 1 << number
    return numbers


def _days(days: _Items, weekdays: _Items, *, either: bool) -> tuple[int, ...]:
    """The set of fitting days for each shape of month."""
    plain = _set((day, 0) for day, _ in days if day != _LAST)
    last = (_LAST, 0) in days
    shapes = []
    for length in (28, 29, 30, 31):
        whole = (2 << length) - 2
        by_day = plain & whole | (1 << length if last else 0)
        for first in range(7):
            by_weekday = 0
            for weekday, nth in weekdays:
                by_weekday |= _weekday_days(weekday, nth, first, length)
            shapes.append(by_day | by_weekday if either else by_day & by_weekday)
    return tuple(shapes)


@cache
def _weekday_days(weekday: int, nth: int, first: int, length: int) -> int:
    """The days of a month on which a weekday (0 is Sunday) falls, or its nth one; `first` is the 1st's (0: Monday)."""
    days = range(1 + (weekday - 1 - first) % 7, length + 1, 7)
    if nth:
        days = days[nth - 1 : nth] if nth > 0 else days[-1:]
    return sum(1 << day for day in days)


def _ever(months: int, days: tuple[int, ...]) -> bool:
    """Whether any month has a fitting day. Every month begins on every weekday sooner or later, a leap one too."""
    lengths = {2: (28, 29), 4: (30,), 6: (30,), 9: (30,), 11: (30,)}
    return any(
        days[(length - 28) * 7 + first]
        for month in range(1, 13)
        if months >> month & 1
        for length in lengths.get(month, (31,))
        for first in range(7)
    )
