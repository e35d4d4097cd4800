"""What tests of several kinds need."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], T | Awaitable[T]], timeout: float = 10) -> T:  # noqa: ASYNC109 - names the bound
    """Wait until the check gives something true, and return it; an AssertionError of the check counts as false.

    Fails with the check's own last word after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
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
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not within {timeout} s: last seen {value!r}")
        await asyncio.sleep(0.01)


def eventually_now(check: Callable[[], T], timeout: float = 10) -> T:
    """The same for who has no event loop."""
    deadline = time.monotonic() + timeout
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: last seen {value!r}")
        time.sleep(0.05)
    return value
