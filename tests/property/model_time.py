"""Simulated time: an event loop whose clock jumps to the next timer as soon as nothing else is to be done.

What happens is decided by the code and its timers alone, so a failure can be repeated; an hour costs milliseconds.
"""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import Any

ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)


class NothingLeft(Exception):
    """The loop has no timer and nothing to do: whoever waits will wait for ever."""


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: the loop's time moves on instead."""

    loop: SimulatedLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None:
            raise NothingLeft
        self.loop.seconds += timeout
        return events


class SimulatedLoop(asyncio.SelectorEventLoop):
    """See the module.

    seconds  float, since the loop was made
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        selector = _Skipping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.seconds


class SimulatedClock:
    """The loop's time as taskq's clock; see `taskq.clock.Clock`."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return ORIGIN + timedelta(seconds=self._loop.seconds)

    def monotonic(self) -> float:
        return self._loop.seconds

    async def sleep(self, seconds: float) -> Any:
        await asyncio.sleep(seconds)
