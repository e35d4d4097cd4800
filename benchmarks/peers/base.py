"""What the harness asks of a contestant.

Each lives in its own module, with `PEER` at its top, imported only in processes of its own: the
driver, which sends, and the workers. Sync contestants implement `send` and `call`, async ones `asend` and `acall`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.wire import BareClient


class Unsupported(Exception):
    """The contestant has nothing of the kind."""


class Peer:
    """A contestant, in a driver process.

    sync       bool, its producer blocks; else it is awaited
    queue      str, the broker queue that its tasks lie on
    queues     every queue that it leaves on the broker
    exchanges  every exchange that it leaves
    kind       str, the type of its task queue
    note       str, the settings chosen for it, for the report
    threads    int, how many threads a sync producer uses to have many publishes under way
    """

    sync = False
    queue = ""
    queues: Sequence[str] = ()
    exchanges: Sequence[str] = ()
    kind = "quorum"
    note = ""
    threads = 8
    broker = ""

    async def open(self) -> None:
        """Connect and declare, so that nothing of it is measured."""

    async def close(self) -> None:
        """Disconnect."""

    def worker_commands(self, processes: int) -> list[list[str]]:
        """Command lines that run so many worker processes on the queue."""
        raise NotImplementedError

    # -- sending ----------------------------------------------------------------------------

    def send(self, number: int) -> None:
        """Enqueue one task; return after the broker's confirm."""
        raise Unsupported

    async def asend(self, number: int) -> None:
        """Enqueue one task; return after the broker's confirm."""
        raise Unsupported

    async def asend_many(self, numbers: Sequence[int]) -> None:
        """Enqueue all; return after all confirms. By default at once, one by one where nothing else is known."""
        await asyncio.gather(*[self.asend(number) for number in numbers])

    def send_many(self, numbers: Sequence[int]) -> None:
        """Enqueue all from a sync program, which for most means threads."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads)
        for _ in self._pool.map(self.send, numbers):
            pass

    _pool: ThreadPoolExecutor | None = None

    # -- results ----------------------------------------------------------------------------

    def call(self, number: int) -> int:
        """Enqueue one task and wait for its result."""
        raise Unsupported

    async def acall(self, number: int) -> int:
        """Enqueue one task and wait for its result."""
        raise Unsupported

    def call_many(self, numbers: Sequence[int]) -> None:
        """Enqueue all, then wait for all results."""
        raise Unsupported

    # -- filling ----------------------------------------------------------------------------

    def fill(self, count: int) -> None:
        """Lay so many tasks on the queue: one is sent by the contestant itself, the rest are copies of it."""
        if self.sync:
            self.send(-1)
        else:
            asyncio.get_event_loop().run_until_complete(self.asend(-1))
        with BareClient(self.broker) as client:
            properties, body = client.get_one(self.queue)
            client.publish_copies(self.queue, properties, body, count)

    def recorded(self, count: int) -> int:
        """Wait until so many outcomes are on record; the instant (monotonic ns). 0: it records nothing."""
        return 0
