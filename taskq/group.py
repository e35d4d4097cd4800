"""Group commit: whatever is submitted while one call runs goes into the next; no timer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from taskq.clock import Clock
from taskq.errors import StoreUnavailable

logger = logging.getLogger("taskq.store")

T = TypeVar("T")
U = TypeVar("U")

MOST = 500  # of one call: bounds the length of a transaction
RETRY_FIRST = 0.05  # seconds
RETRY_MOST = 2.0


class Group(Generic[T, U]):
    """Calls `work` with everything submitted since the last call, and hands each its own result.

    A store that does not answer stops it, and loses nothing: the same call is repeated until it works.
    """

    def __init__(self, work: Callable[[list[T]], Awaitable[list[U]]], *, clock: Clock, what: str) -> None:
        self._work = work
        self._clock = clock
        self._what = what
        self._pending: list[tuple[T, Callable[[U], None]]] = []
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.failing_since: float | None = None

    def submit(self, item: T, then: Callable[[U], None]) -> None:
        """Have the item worked on; `then` is called with its result, in the loop."""
        self._pending.append((item, then))
        self._filled.set()
        self._idle.clear()

    async def call(self, item: T) -> U:
        """Have the item worked on, and wait for its result."""
        future: asyncio.Future[U] = asyncio.get_running_loop().create_future()
        self.submit(item, lambda result: None if future.done() else future.set_result(result))
        return await future

    async def call_many(self, items: Sequence[T]) -> list[U]:
        """Have the items worked on, and wait for all of their results, which are in their order."""
        results: dict[int, U] = {}
        whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def keep(index: int, result: U) -> None:
            results[index] = result
            if len(results) == len(items) and not whole.done():
                whole.set_result(None)

        for index, item in enumerate(items):
            self.submit(item, partial(keep, index))
        if items:
            await whole
        return [results[index] for index in range(len(items))]

    async def drained(self) -> None:
        """Return once nothing is pending."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._filled.wait()
            batch, self._pending = self._pending[:MOST], self._pending[MOST:]
            if not self._pending:
                self._filled.clear()
            items = [item for item, _ in batch]
            results = await insist(
                lambda items=items: self._work(items),  # type: ignore[misc]
                clock=self._clock,
                what=self._what,
                failing=self._failing,
            )
            for (_, then), result in zip(batch, results, strict=True):
                then(result)
            if not self._pending:
                self._idle.set()

    def _failing(self, since: float | None) -> None:
        self.failing_since = since


async def insist(
    work: Callable[[], Awaitable[T]],
    *,
    clock: Clock,
    what: str,
    failing: Callable[[float | None], None] = lambda since: None,
) -> T:
    """The result of the work, repeated with growing pauses for as long as the store does not answer.

    `failing` is told since when (monotonic) it fails, and None once it works.
    """
    pause, since = RETRY_FIRST, None
    while True:
        try:
            result = await work()
        except StoreUnavailable as error:
            if since is None:
                since = clock.monotonic()
                failing(since)
                logger.warning("%s: %s; trying again until it works", what, error)
            await clock.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, RETRY_MOST)
        else:
            if since is not None:
                failing(None)
                logger.info("%s: works again", what)
            return result
