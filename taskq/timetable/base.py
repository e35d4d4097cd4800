"""What every timetable can be asked, and the instants it is asked about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta

from taskq.errors import InvalidSchedule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)

TICK = timedelta(microseconds=1)  # the smallest step between two instants


class Timetable(ABC):
    """Instants on a line, from `EPOCH` on and before `LATEST`; the same ones whenever and wherever one asks."""

    __slots__ = ()

    @abstractmethod
    def next_after(self, instant: datetime) -> datetime | None:
        """The first instant after that one; None: there is none any more."""

    @abstractmethod
    def previous_before(self, instant: datetime) -> datetime | None:
        """The last instant before that one; None: there is none yet."""

    def between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The first `limit` instants after `after`, up to and with `until`, in their order."""
        until = utc(until, "the end of a span")
        found: list[datetime] = []
        instant = self.next_after(after)
        while instant is not None and instant <= until and len(found) < limit:
            found.append(instant)
            instant = self.next_after(instant)
        return found


def utc(instant: datetime, what: str) -> datetime:
    """The instant as aware UTC.

    Raises:
        InvalidSchedule: it is no datetime, or a naive one, of which nobody knows when it is.
    """
    if not isinstance(instant, datetime):
        raise InvalidSchedule(f"{what} is a datetime, got {instant!r:.80}")
    if instant.utcoffset() is None:
        raise InvalidSchedule(f"{what} needs a zone, such as datetime(…, tzinfo=UTC), got {instant!r}")
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise InvalidSchedule(f"{what} is outside of what can be computed, got {instant!r}") from None


def within_time(instant: datetime, what: str) -> datetime:
    """The instant as aware UTC in whole milliseconds, which is all that a store keeps of it.

    Raises:
        InvalidSchedule: as `utc` does, or it is before `EPOCH` or not before `LATEST`.
    """
    instant = utc(instant, what)
    if not EPOCH <= instant < LATEST:
        raise InvalidSchedule(f"{what} is from {EPOCH:%Y} on and before {LATEST:%Y}, got {instant.isoformat()}")
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
