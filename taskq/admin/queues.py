"""Making, changing and deleting whole queues as an operator does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import EllipsisType
from typing import Any

from taskq.admin.drain import StillHeld
from taskq.admin.limits import change
from taskq.admin.migrate import Migration, reborn
from taskq.admin.purge import Purge
from taskq.broker.base import Broker, BrokerQueue, Depth, Kind
from taskq.clock import Clock
from taskq.dispatch import broker_queues, control
from taskq.outcome import Status
from taskq.queue import Queue, QueueRecord
from taskq.store.base import MessageFilter, Store
from taskq.store.gateway import RequestFilter

PAGE = 500
AT_ONCE = 16  # broker questions under way: each takes a channel
LOOK_EVERY = 0.1  # seconds


def _silent(done: int, total: int | None = None) -> None:
    """Nobody looks at the progress."""


async def ready(broker: Broker, records: list[QueueRecord]) -> list[int | None]:
    """For each how many messages lie on the broker in nobody's hands; None: the broker has no such queue."""
    bound = asyncio.Semaphore(AT_ONCE)

    async def ask(queue: BrokerQueue) -> Depth | None:
        async with bound:
            return await broker.depth(queue)

    async def of(record: QueueRecord) -> int | None:
        depths = await asyncio.gather(*map(ask, broker_queues(record)))
        present = [depth.ready for depth in depths if depth is not None]
        return sum(present) if present else None

    return list(await asyncio.gather(*map(of, records)))


class Queues:
    """What is done to queues as wholes.

    Args:
        make_broker: a broker of its own, not yet open, for what listens to the workers meanwhile.
    """

    def __init__(self, *, broker: Broker, store: Store, clock: Clock, make_broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._make_broker = make_broker

    async def put(
        self, name: str, parallelism: int, *, paused: bool | EllipsisType = ..., patience: float
    ) -> QueueRecord:
        """Make the queue, or change it: so many at once, a message that waits for its retry among them.

        One at a time is strict order, and a queue that comes to it or leaves it is made anew, its messages moved.

        Args:
            patience: seconds that workers may take to let go of a queue that is made anew.

        Raises:
            InvalidQueue: such a queue cannot be.
            StillHeld: a worker did not let go of it; nothing has changed.
        """
        wanted = Queue(name, parallelism=parallelism, retry_in_place=True)
        record = await self._store.get_queue(name)
        if record is None:
            record = await self._store.ensure_queue(wanted, origin="operator")
            await self._broker.declare_base(self._store.id)
            for queue in broker_queues(record):
                await self._broker.declare(queue)
        if record.born_fifo != wanted.fifo:
            await self._migrate(record, reborn(record, fifo=wanted.fifo, parallelism=parallelism), patience)
        changes: dict[str, Any] = {} if paused is ... else {"paused": paused}
        return await change(
            self._broker, self._store, name, parallelism=parallelism, retry_in_place=True, **changes
        )  # fmt: skip

    async def _migrate(self, record: QueueRecord, queue: Queue, patience: float) -> None:
        broker = self._make_broker()
        try:
            await broker.open()
            job = Migration(broker=broker, store=self._store, clock=self._clock, advance=_silent)
            await job.run(record, queue, patience=patience)
        finally:
            await broker.close()

    async def delete(self, name: str, *, patience: float) -> bool:
        """Delete a queue. Every message in it, waiting for it, or running is cancelled. False: there is none.

        Args:
            patience: seconds that runs may take to end once they are told to.

        Raises:
            StillHeld: one did not; the queue stays, and what was cancelled by then stays so.
        """
        record = await self._store.get_queue(name)
        if record is None:
            return False
        async with self._paused(record) as record:
            purge = Purge(broker=self._broker, store=self._store, clock=self._clock, advance=_silent)
            await self._cancel_runs(name)
            await purge.run(record, patience=patience)
            await self._runs_ended(name, patience)
            for queue in broker_queues(record):
                await self._broker.unroute(queue)
                await self._broker.delete(queue)
            if not record.born_fifo:
                for index in range(record.parallelism or 0):
                    await self._broker.delete(BrokerQueue(Kind.SLOT, name, index))
            deleted = await self._store.delete_queue(name)
            self._broker.broadcast(control({"changed": name}))
            # What came while it went away is not on the broker any more.
            await self._cancel_rest(name, purge)
        return deleted

    @contextlib.asynccontextmanager
    async def _paused(self, record: QueueRecord) -> AsyncIterator[QueueRecord]:
        """Nothing of the queue starts; if it is still there in the end, it is as it was."""
        paused = await change(self._broker, self._store, record.name, paused=True)
        try:
            yield paused
        finally:
            if not record.paused and await self._store.get_queue(record.name) is not None:
                await change(self._broker, self._store, record.name, paused=False)

    async def _cancel_runs(self, name: str) -> None:
        """Runs, and heads that wait for their retries, would keep the queue."""
        cursor: str | None = None
        while True:
            which = MessageFilter(status=[Status.RUNNING, Status.WAITING], queue=name)
            page = await self._store.list(which, cursor=cursor, limit=PAGE)
            for record in page.items:
                await self._store.cancel(record.id)
                self._broker.broadcast(control({"cancel": record.id}))
            cursor = page.cursor
            if cursor is None:
                return

    async def _runs_ended(self, name: str, patience: float) -> None:
        until = self._clock.monotonic() + patience
        while (await self._store.list(MessageFilter(status=[Status.RUNNING], queue=name), limit=1)).items:
            if self._clock.monotonic() > until:
                raise StillHeld(f"queue {name!r}: a message still runs there after {patience:g} s; try again later")
            await self._clock.sleep(LOOK_EVERY)

    async def _cancel_rest(self, name: str, purge: Purge) -> None:
        cursor: str | None = None
        while True:
            which = RequestFilter(queues=[name], unfinished=True)
            page = await self._store.list_requests(which, cursor=cursor, limit=PAGE)
            await purge.settle([one.message for one in page.items if one.message.queue == name])
            cursor = page.cursor
            if cursor is None:
                return
