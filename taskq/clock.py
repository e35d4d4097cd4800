"""Time as an argument. `SystemClock` is the only code of the package that asks the machine for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

PRECISE = 0.02  # seconds that a look at another clock may take to be taken at its word


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back, from an arbitrary origin; for measuring durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of this clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FollowingClock:
    """The time of another clock, carried on by this machine's monotonic one from the last look at it.

    A step of this machine's own clock is not seen in it.

    Args:
        clock: this machine's.
        read: asks the other one; None: there is no other, the time is this machine's.
    """

    def __init__(self, clock: Clock, read: Callable[[], Awaitable[datetime]] | None) -> None:
        self._clock = clock
        self._read = read
        self._seen = clock.now()
        self._at = clock.monotonic()

    async def look(self) -> None:
        """Ask it now; raises what `read` does, and goes on as before then."""
        if self._read is None:
            return
        before, expected = self._clock.monotonic(), self.now()
        seen = await self._read()
        after = self._clock.monotonic()
        # An answer that took long says little of when it was read: it only corrects a time that it rules out.
        if after - before <= PRECISE or not timedelta() <= seen - expected <= timedelta(seconds=after - before):
            self._seen, self._at = seen, (before + after) / 2

    def now(self) -> datetime:
        if self._read is None:
            return self._clock.now()
        return self._seen + timedelta(seconds=self._clock.monotonic() - self._at)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


def to_ms(instant: datetime) -> int:
    """The instant as milliseconds since the epoch: its form on the wire."""
    return round(instant.timestamp() * 1000)


def from_ms(value: int) -> datetime:
    """The aware UTC instant of milliseconds since the epoch."""
    return datetime.fromtimestamp(value / 1000, UTC)
