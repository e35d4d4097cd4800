"""What tests of several kinds need."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("TASKQ_TEST_PATIENCE", "60"))  # seconds until a fact that is awaited is missed


class Pulse(threading.Thread):
    """Notes for how long the machine stood still, as virtual ones do: a bound on time says nothing of that time.

    Started once in every process of the tests.
    """

    BEAT = 0.02  # seconds

    def __init__(self) -> None:
        super().__init__(name="pulse", daemon=True)
        self._lost = 0.0
        self._mark = 0.0

    def run(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(self.BEAT)
            now = time.monotonic()
            self._lost += max(0.0, now - last - 2 * self.BEAT)
            last = now

    def begin(self) -> None:
        """A test begins."""
        self._mark = self._lost

    def lost(self) -> float:
        """Seconds for which nothing went on since the test began: add them to what a promise allows."""
        time.sleep(2 * self.BEAT)  # a halt that has just ended is noted by then
        return self.noted()

    def noted(self) -> float:
        """The same, as far as it is noted yet."""
        return 2 * (self._lost - self._mark)  # what stood still has to be caught up with, too


pulse = Pulse()


async def eventually(check: Callable[[], T | Awaitable[T]], timeout: float = PATIENCE) -> T:  # noqa: ASYNC109 - names the bound
    """Wait until the check gives something true, and return it; an AssertionError of the check counts as false.

    Fails with the check's own last word after `timeout` seconds; those in which the machine stood still do not count.
    """
    deadline = time.monotonic() + timeout - pulse.noted()
    while True:
        failure: AssertionError | None = None
        value = None
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
        except AssertionError as error:
            failure = error
        if failure is None and value:
            return value
        late = time.monotonic() - deadline
        await asyncio.sleep(2 * pulse.BEAT if late > 0 else 0.01)  # a halt that has just ended is noted by then
        if late > 0 and late > pulse.noted():
            raise failure or AssertionError(f"not within {timeout} s: last seen {value!r}")


def eventually_now(check: Callable[[], T], timeout: float = PATIENCE) -> T:
    """The same for who has no event loop."""
    deadline = time.monotonic() + timeout - pulse.noted()
    while not (value := check()):
        late = time.monotonic() - deadline
        if late > 0 and late > pulse.lost():
            raise AssertionError(f"not within {timeout} s: last seen {value!r}")
        time.sleep(0.05)
    return value
