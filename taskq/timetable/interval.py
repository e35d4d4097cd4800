"""Timetables without a calendar: an interval of real time, and a single instant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from taskq.errors import InvalidSchedule
from taskq.timetable.base import EPOCH, LATEST, TICK, Timetable, utc, within_time

SHORTEST_INTERVAL = 1.0  # seconds; what is to happen more often is a loop in a task
LONGEST_INTERVAL = 3660 * 86400.0  # seconds, ten years

_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Every(Timetable):
    """The start, and then every so many seconds of real time, whatever clocks on walls do.

    Args:
        seconds: from 1 to ten years, in whole milliseconds (the nearest).
        start: the first instant, which all others are counted from; the epoch unless said otherwise, so that a
            minute is a minute of the clock, and all who ask agree.

    Raises:
        InvalidSchedule: no number, out of bounds, or a start without a zone.
    """

    seconds: float
    start: datetime = EPOCH

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float):
            raise InvalidSchedule(f"an interval is a number of seconds, got {self.seconds!r:.80}")
        if not SHORTEST_INTERVAL <= self.seconds <= LONGEST_INTERVAL:
            raise InvalidSchedule(
                f"an interval is from {SHORTEST_INTERVAL:g} second to {LONGEST_INTERVAL:.0f} (ten years), "
                f"got {self.seconds!r:.80}"
            )
        object.__setattr__(self, "seconds", round(self.seconds * 1000) / 1000)
        object.__setattr__(self, "start", within_time(self.start, "an interval's start"))

    def next_after(self, instant: datetime) -> datetime | None:
        instant = utc(instant, "an instant")
        if instant < self.start:
            return self.start
        step = self._step
        gone = (instant - self.start) // step
        return self.start + (gone + 1) * step if LATEST - self.start > (gone + 1) * step else None

    def previous_before(self, instant: datetime) -> datetime | None:
        instant = min(utc(instant, "an instant"), LATEST)
        if instant <= self.start:
            return None
        return self.start + (instant - TICK - self.start) // self._step * self._step

    @property
    def _step(self) -> timedelta:
        return round(self.seconds * 1000) * _MS


@dataclass(frozen=True, slots=True)
class Once(Timetable):
    """A single instant.

    Raises:
        InvalidSchedule: no aware datetime.
    """

    at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", within_time(self.at, "a single instant"))

    def next_after(self, instant: datetime) -> datetime | None:
        return self.at if utc(instant, "an instant") < self.at else None

    def previous_before(self, instant: datetime) -> datetime | None:
        return self.at if utc(instant, "an instant") > self.at else None
