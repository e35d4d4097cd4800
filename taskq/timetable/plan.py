"""Policies around a timetable: its bounds, jitter, and what becomes of instants that were missed.

A plan keeps nothing. How far a schedule has come is two values that its owner stores: `seen`, up to which instants have
been dealt with, and `runs`, how many have fired. `due` takes them with the present instant and says what fires now and
what they are afterwards; whoever asks with the same values gets the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Literal, get_args

from taskq.errors import InvalidSchedule
from taskq.timetable.base import EPOCH, LATEST, TICK, Timetable, utc, within_time

LONGEST_JITTER = 86400.0  # seconds
MOST_CAUGHT_UP = 10_000
GRACE = 10.0  # seconds

CatchUp = Literal["skip", "last", "all"]
CATCH_UP: tuple[CatchUp, ...] = get_args(CatchUp)

_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule does now, and where it stands when that is done.

    instants  to fire now, the oldest first
    seen      up to here instants have been dealt with
    next_at   when to ask again: the next instant with its jitter; None: never
    missed    the oldest of the instants that will not fire, because they were missed; None: all do
    """

    instants: tuple[datetime, ...]
    seen: datetime
    next_at: datetime | None
    missed: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A timetable with its policies.

    Args:
        timetable: Cron, Every or Once.
        catch_up: what becomes of missed instants, those that are more than the grace late: "skip" drops them; "last"
            fires the newest of them, unless a later instant fires now anyway; "all" fires each.
        catch_up_limit: how many instants fire at once, 1 to 10,000; of more, the newest.
        jitter: seconds by which an instant may be put off, 0 to a day: each by its own share, which depends on nothing
            but the schedule's id and the instant. Never as far as the next instant, so their order stays.
        starts_at, ends_at: the first and the last instant that may be one; None: no bound.
        max_runs: how many instants fire, 1 or more; None: no bound.

    Raises:
        InvalidSchedule: a value out of bounds, or bounds within which the timetable has no instant.
    """

    timetable: Timetable
    catch_up: CatchUp = "last"
    catch_up_limit: int = 100
    jitter: float = 0.0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    max_runs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.timetable, Timetable):
            raise InvalidSchedule(f"a plan needs a timetable: Cron, Every or Once, got {self.timetable!r:.80}")
        if self.catch_up not in CATCH_UP:
            raise InvalidSchedule(f"catch_up is one of {', '.join(CATCH_UP)}, got {self.catch_up!r:.80}")
        if type(self.catch_up_limit) is not int or not 1 <= self.catch_up_limit <= MOST_CAUGHT_UP:
            raise InvalidSchedule(f"catch_up_limit is from 1 to {MOST_CAUGHT_UP}, got {self.catch_up_limit!r:.80}")
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float):
            raise InvalidSchedule(f"jitter is a number of seconds, got {self.jitter!r:.80}")
        if not 0 <= self.jitter <= LONGEST_JITTER:
            raise InvalidSchedule(f"jitter is from 0 to {LONGEST_JITTER:.0f} seconds, got {self.jitter!r:.80}")
        object.__setattr__(self, "jitter", float(self.jitter))
        if self.max_runs is not None and (type(self.max_runs) is not int or self.max_runs < 1):
            raise InvalidSchedule(f"max_runs is 1 or more, got {self.max_runs!r:.80}")
        for name in ("starts_at", "ends_at"):
            if (bound := getattr(self, name)) is not None:
                object.__setattr__(self, name, within_time(bound, name))
        self._check_bounds()

    def _check_bounds(self) -> None:
        if self.starts_at is not None and self.ends_at is not None and self.ends_at < self.starts_at:
            raise InvalidSchedule(
                f"ends_at ({self.ends_at.isoformat()}) is before starts_at ({self.starts_at.isoformat()})"
            )
        if self.next_after(EPOCH - TICK) is None:
            raise InvalidSchedule("it would never fire: no instant of the timetable is from starts_at to ends_at")

    def next_after(self, instant: datetime, *, runs: int = 0) -> datetime | None:
        """The first instant after that one which may fire, without its jitter; None: none will.

        Args:
            runs: how many have fired.
        """
        if self.max_runs is not None and runs >= self.max_runs:
            return None
        if self.starts_at is not None:
            instant = max(utc(instant, "an instant"), self.starts_at - TICK)
        found = self.timetable.next_after(instant)
        if found is None or (self.ends_at is not None and found > self.ends_at):
            return None
        return found

    def upcoming(self, after: datetime, count: int, *, runs: int = 0) -> list[datetime]:
        """The next `count` instants after that one, or as many as there are, without their jitter."""
        found: list[datetime] = []
        instant = self.next_after(after, runs=runs)
        while instant is not None and len(found) < count:
            found.append(instant)
            instant = self.next_after(instant, runs=runs + len(found))
        return found

    def fires_at(self, id: str, instant: datetime) -> datetime:
        """When an instant of this plan is to fire: later than itself by its share of the jitter.

        Args:
            id: the schedule's; schedules with the same timetable are spread by it.
        """
        instant = utc(instant, "an instant")
        if not self.jitter:
            return instant
        room = timedelta(seconds=self.jitter)
        following = self.timetable.next_after(instant)
        if following is not None:
            room = min(room, following - instant)
        digest = blake2b(f"{id}\n{(instant - EPOCH) // _MS}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return instant + (int.from_bytes(digest) * (room // _MS) >> 64) * _MS

    def due(self, id: str, *, seen: datetime, now: datetime, runs: int = 0, grace: float = GRACE) -> Due:
        """What fires now.

        Instants that are at most `grace` late are on time and fire, whatever `catch_up` says; the older ones were
        missed. A clock that was put back changes nothing: `seen` never goes back, and the time until then is not
        lived through twice.

        Args:
            id: the schedule's, for its jitter.
            seen: up to here instants have been dealt with; for a new schedule, when it was made.
            now: the present instant.
            runs: how many have fired.
            grace: seconds.
        """
        seen, now = utc(seen, "seen"), utc(now, "now")
        first = self.next_after(seen, runs=runs)
        if first is None:
            return Due((), seen, None)
        at = self.fires_at(id, first)
        if at > now:
            return Due((), seen, at)
        newest = self._newest(id, now)
        instants = self._chosen(id, first, newest, now - timedelta(seconds=grace))
        if self.max_runs is not None:
            instants = instants[: self.max_runs - runs]
        following = self.next_after(newest, runs=runs + len(instants))
        return Due(
            instants=instants,
            seen=newest,
            next_at=None if following is None else self.fires_at(id, following),
            missed=None if first in instants[:1] else first,
        )

    def _newest(self, id: str, now: datetime) -> datetime:
        """The last instant whose time has come; there is one."""
        before = min(now + TICK, LATEST) if self.ends_at is None else min(now, self.ends_at) + TICK
        newest = self.timetable.previous_before(before)
        if newest is not None and self.fires_at(id, newest) > now:
            newest = self.timetable.previous_before(newest)
        assert newest is not None  # the one whose time had come is not after it
        return newest

    def _chosen(self, id: str, first: datetime, newest: datetime, on_time: datetime) -> tuple[datetime, ...]:
        """Of the instants from first to newest, those that fire."""
        chosen: list[datetime] = []
        instant: datetime | None = newest
        while instant is not None and instant >= first and len(chosen) < self.catch_up_limit:
            if self.fires_at(id, instant) < on_time and (
                self.catch_up == "skip" or (self.catch_up == "last" and chosen)
            ):
                break
            chosen.append(instant)
            instant = self.timetable.previous_before(instant)
        return tuple(reversed(chosen))
