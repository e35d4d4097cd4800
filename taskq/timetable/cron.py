"""Cron with a zone: wall-clock times turned into instants, also where clocks are put forward or back.

The rules are those of Debian's cron(8). A cron with `*` (or every value) as its minutes or its hours is a wildcard: it
fires whenever the wall shows a time that fits, so real intervals stay what they are, an hour that is skipped is not
made up for, and one that is repeated is served twice. All others name times of the day, and each of them comes once a
day: one that is skipped comes at the first instant after the gap, one that is repeated comes the first time only. A
change of more than three hours is a correction of the calendar: the new time is followed as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from taskq.errors import InvalidSchedule
from taskq.timetable.base import EPOCH, LATEST, TICK, Timetable, utc
from taskq.timetable.fields import MAX_CHARS, Fields, parse_cron
from taskq.timetable.zone import Stretch, Zone, zone_named

_SECOND = timedelta(seconds=1)
_WORD = re.compile(r"[^ \t\r\n]+")
_PREFIXES = ("CRON_TZ=", "TZ=")


@dataclass(frozen=True, slots=True)
class Cron(Timetable):
    """Wall-clock times of a zone, such as `Cron("0 9 * * MON-FRI", "Europe/Paris")`.

    Args:
        text: five fields (minute, hour, day, month, weekday), six with the seconds leading, or an alias such as
            `@daily`; `CRON_TZ=Zone` may stand before it. At most 512 characters. `fields` has the grammar.
        zone: an IANA name; None: the one of the text, else UTC.

    Afterwards `text` is without the zone and `zone` is never None: crons that mean the same are equal.

    Raises:
        InvalidSchedule: the text is none (it says which field, and at which position), no day ever fits it, the zone
            is not known, or text and argument name two zones.
    """

    text: str
    zone: str | None = None
    _fields: Fields = field(init=False, repr=False, compare=False)
    _zone: Zone = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text, zone = _without_zone(self.text)
        if zone and self.zone is not None and zone != self.zone:
            raise InvalidSchedule(
                f"cron {self.text!r} and timezone={self.zone!r} name two zones: leave one of them out"
            )
        found = zone_named(zone or ("UTC" if self.zone is None else self.zone))
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "zone", found.name)
        object.__setattr__(self, "_fields", parse_cron(text))
        object.__setattr__(self, "_zone", found)

    def __str__(self) -> str:
        return self.text if self.zone == "UTC" else f"CRON_TZ={self.zone} {self.text}"

    def next_after(self, instant: datetime) -> datetime | None:
        instant = utc(instant, "an instant")
        if instant >= LATEST:
            return None
        start = max(_whole_seconds(instant) + _SECOND, _whole_seconds(EPOCH))
        for stretch in self._zone.stretches_from(start):
            if (found := self._first_in(stretch, start)) is not None:
                return found.replace(tzinfo=UTC)
        return None

    def previous_before(self, instant: datetime) -> datetime | None:
        instant = utc(instant, "an instant")
        if instant <= EPOCH:
            return None
        last = _whole_seconds(min(instant, LATEST) - TICK)
        for stretch in self._zone.stretches_until(last):
            if (found := self._last_in(stretch, last)) is not None:
                return found.replace(tzinfo=UTC)
        return None

    def _first_in(self, stretch: Stretch, start: datetime) -> datetime | None:
        """The first firing of a stretch that is not before `start`."""
        if start <= stretch.start and self._makes_up(stretch):
            return stretch.start
        wall = max(start + stretch.offset, self._first_wall(stretch))
        found = self._fields.first_from(wall, stretch.end_wall)
        return None if found is None else found - stretch.offset

    def _last_in(self, stretch: Stretch, last: datetime) -> datetime | None:
        """The last firing of a stretch that is not after `last`."""
        wall = min(last + stretch.offset, stretch.end_wall - _SECOND)
        first = self._first_wall(stretch)
        found = self._fields.last_until(wall, first) if wall >= first else None
        if found is not None:
            return found - stretch.offset
        return stretch.start if self._makes_up(stretch) else None

    def _first_wall(self, stretch: Stretch) -> datetime:
        """From where on the stretch's wall-clock times count: those that come again do for wildcards only."""
        return stretch.first_wall if self._fields.wildcard else max(stretch.first_wall, stretch.shown_until)

    def _makes_up(self, stretch: Stretch) -> bool:
        """Whether a time of the day was skipped when the stretch began, and comes at its start instead."""
        if self._fields.wildcard or stretch.skipped_from is None:
            return False
        return self._fields.first_from(stretch.skipped_from, stretch.first_wall) is not None


def _without_zone(text: str) -> tuple[str, str]:
    """The text in its plainest form, and the zone that stood before it ("": none did)."""
    if not isinstance(text, str):
        raise InvalidSchedule(f"a cron is text, got {text!r:.80}")
    if len(text) > MAX_CHARS:
        raise InvalidSchedule(f"a cron has at most {MAX_CHARS} characters, got {len(text)}")
    words = _WORD.findall(text)
    zone = ""
    for prefix in _PREFIXES:
        if words and words[0].startswith(prefix):
            zone = words.pop(0).removeprefix(prefix)
            if not zone:
                raise InvalidSchedule(f"cron {text!r}: a zone such as Europe/Paris follows {prefix}")
    return " ".join(words), zone


def _whole_seconds(instant: datetime) -> datetime:
    """The instant, aware UTC, as `zone` and `fields` have it: naive."""
    return instant.replace(microsecond=0, tzinfo=None)
