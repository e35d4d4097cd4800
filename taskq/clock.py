"""Time as an argument. `SystemClock` is the only code of the package that asks the machine for it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


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


def to_ms(instant: datetime) -> int:
    """The instant as milliseconds since the epoch: its form on the wire."""
    return round(instant.timestamp() * 1000)


def from_ms(value: int) -> datetime:
    """The aware UTC instant of milliseconds since the epoch."""
    return datetime.fromtimestamp(value / 1000, UTC)
