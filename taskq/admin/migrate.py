"""Making a queue anew with other arguments, which no broker can change in place, without losing a message or its order.

Its messages move to a holding queue, the old broker queues are deleted, the new ones declared, the
messages move back. Each move publishes, waits for the confirms, then acknowledges, so that a
message is never in none of them; a crash may leave it in two, under one id, marked so that its
first start asks the store. Called again, a migration goes on where it was broken off: what it finds
on the broker tells how far it came.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import EllipsisType

from taskq.admin.census import Census
from taskq.admin.drain import Advance, StillHeld, drain
from taskq.admin.limits import change
from taskq.broker.base import Broker, BrokerQueue, Delivery, Kind, Outgoing
from taskq.clock import Clock
from taskq.dispatch import broker_queues, control, task_queue
from taskq.errors import InvalidMessage, QueueMismatch, TaskqError
from taskq.message import CONTENT_TYPE, Message, decode
from taskq.queue import Queue, QueueRecord, lane_of
from taskq.store.base import Store

LOOK_EVERY = 0.2  # seconds


class BrokenOff(TaskqError):
    """A migration stopped in the middle; everything is kept, and it can go on."""


def reborn(
    record: QueueRecord,
    *,
    fifo: bool | None = None,
    priorities: bool | None = None,
    partitions: int | None | EllipsisType = ...,
    parallelism: int | None | EllipsisType = ...,
) -> Queue:
    """The queue with what is asked for; None and `...`: as it is.

    Raises:
        InvalidQueue: such a queue cannot be.
    """
    if partitions is not ... and partitions is not None:
        fifo = True if fifo is None else fifo
    fifo = record.born_fifo if fifo is None else fifo
    if parallelism is ...:
        parallelism = record.parallelism if fifo == record.born_fifo else None
    lanes = record.partitions if fifo and partitions is ... else partitions
    return Queue(
        record.name,
        parallelism=1 if fifo else parallelism,
        rate_limit=record.rate_limit,
        worker_parallelism=None if fifo else record.worker_parallelism,
        priorities=record.born_priorities if priorities is None else priorities,
        partitions=None if lanes is ... else lanes,
        retry_in_place=record.retry_in_place,
    )


def born_as(record: QueueRecord, queue: Queue) -> QueueRecord:
    """The record as it is once the queue has been reborn."""
    return replace(
        record,
        born_fifo=queue.fifo,
        born_priorities=queue.priorities,
        partitions=queue.partitions,
        parallelism=queue.parallelism,
        worker_parallelism=queue.worker_parallelism,
    )


class Migration:
    """One migration of one queue."""

    def __init__(self, *, broker: Broker, store: Store, clock: Clock, advance: Advance) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._advance = advance
        self._census = Census(broker)
        self._moved = 0

    async def run(self, record: QueueRecord, queue: Queue, *, patience: float) -> int | None:
        """Make the queue anew; how many messages were moved back, None if it is so already.

        Args:
            patience: seconds that workers may take to let go of the queue.

        Raises:
            StillHeld: they did not; nothing has changed.
            BrokenOff: everything is kept, the queue stays paused, and the same call goes on.
        """
        name, after = record.name, born_as(record, queue)
        # "/" is in no queue's name: nobody else sends there. Ordered, so that a lost connection changes no order.
        holding = BrokerQueue(Kind.TASK, f"{name}/migration", ordered=True)
        going_on = await self._broker.depth(holding) is not None
        if after == record and not going_on and not await self._stale(name, after):
            return None
        await self._census.listen()
        if not record.paused:
            await change(self._broker, self._store, name, paused=True)
        try:
            await self._let_go(name, patience)
        except BaseException:
            if not record.paused and not going_on:
                await change(self._broker, self._store, name, paused=False)
            raise
        try:
            if await self._stale(name, after) or record.partitions != after.partitions:
                await self._broker.declare(holding)
                await self._collect(await self._existing(name), holding, patience)
            await self._rebirth(record, queue, after, holding, patience)
            await self._spread(holding, after, patience)
        except TaskqError as error:
            raise BrokenOff(
                f"the migration of queue {name!r} was broken off ({error}); nothing is lost, the queue is paused: run "
                "the same command again"
            ) from error
        if not record.paused:
            await change(self._broker, self._store, name, paused=False)
        return self._moved

    # -- what is there ----------------------------------------------------------------------

    async def _existing(self, name: str) -> list[BrokerQueue]:
        """The broker queues that hold messages of this logical queue."""
        queues = [task_queue(name)] if await self._broker.depth(task_queue(name)) is not None else []
        for index in itertools.count():
            lane = BrokerQueue(Kind.LANE, name, index)
            if await self._broker.depth(lane) is None:
                break
            queues.append(lane)
        return queues

    async def _stale(self, name: str, after: QueueRecord) -> list[BrokerQueue]:
        """Those that are not to be, or have other arguments than they should."""
        wanted = {self._key(queue): queue for queue in broker_queues(after)}
        stale = []
        for queue in await self._existing(name):
            target = wanted.get(self._key(queue))
            if target is None or not await self._fits(target):
                stale.append(queue)
        return stale

    def _key(self, queue: BrokerQueue) -> tuple[Kind, int]:
        return queue.kind, queue.index

    async def _fits(self, queue: BrokerQueue) -> bool:
        try:
            await self._broker.declare(queue)
        except QueueMismatch:
            return False
        return True

    async def _let_go(self, name: str, patience: float) -> None:
        """Return once no worker consumes the queue, or holds a message of it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            depths = [await self._broker.depth(queue) for queue in await self._existing(name)]
            workers = (await self._census.ask()).values()
            holding = [worker.id for worker in workers if worker.held.get(name)]
            if not holding and not any(depth.consumers for depth in depths if depth is not None):
                return
            if loop.time() > deadline:
                who = ", ".join(holding) or "a worker"
                raise StillHeld(
                    f"queue {name!r}: {who} has not let go of it for {patience:g} s, for a message still runs; nothing "
                    "has changed: try again later, or with a longer --timeout"
                )
            await self._clock.sleep(LOOK_EVERY)

    # -- steps ------------------------------------------------------------------------------

    async def _collect(self, queues: Sequence[BrokerQueue], holding: BrokerQueue, patience: float) -> None:
        """Everything into the holding queue, in order."""
        for queue in queues:
            depth = await self._broker.depth(queue)
            self._advance(0, self._moved + 2 * (depth.ready if depth is not None else 0))
            await self._move(queue, lambda _: holding, patience)

    async def _rebirth(
        self, record: QueueRecord, queue: Queue, after: QueueRecord, holding: BrokerQueue, patience: float
    ) -> None:
        """The row first: a sender that finds no route makes the queue as the row says, and not as it was."""
        await self._store.rebirth(queue)
        # The highest lane first: `_existing` counts from 0 to the first that is not there.
        for stale in reversed(await self._stale(record.name, after)):
            await self._broker.unroute(stale)
            await self._move(stale, lambda _: holding, patience)  # what came until then
            await self._broker.delete(stale)
        if after.parallelism is None or after.born_fifo:
            for index in range(record.parallelism or 0):
                await self._broker.delete(BrokerQueue(Kind.SLOT, record.name, index))
        for target in broker_queues(after):
            await self._broker.declare(target)
        self._broker.broadcast(control({"changed": record.name}))

    async def _spread(self, holding: BrokerQueue, after: QueueRecord, patience: float) -> None:
        """Everything back, each message to where it belongs now."""
        if await self._broker.depth(holding) is None:
            return
        self._moved = 0
        targets = broker_queues(after)

        def route(message: Message | None) -> BrokerQueue:
            if after.partitions is None or message is None:
                return targets[0]
            return targets[lane_of(message.key or message.id, after.partitions)]

        await self._move(holding, route, patience)
        await self._broker.unroute(holding)
        await self._broker.delete(holding)

    async def _move(self, source: BrokerQueue, route: Callable[[Message | None], BrokerQueue], patience: float) -> None:
        """Publish, wait for the confirms, acknowledge; the first failure ends it, what follows stays where it is."""

        async def take(deliveries: list[Delivery]) -> None:
            results = await self._broker.publish_many([_copy(delivery, route) for delivery in deliveries])
            for delivery, error in zip(deliveries, results, strict=True):
                if error is not None:
                    raise error
                delivery.acknowledge()
                self._moved += 1
            self._advance(len(deliveries))

        await drain(self._broker, source, take, patience=patience)


def _copy(delivery: Delivery, route: Callable[[Message | None], BrokerQueue]) -> Outgoing:
    try:
        message = decode(delivery.body, delivery.content_type)
    except InvalidMessage:
        # Not ours: the worker that gets it will say so.
        return Outgoing(route(None), delivery.body, delivery.message_id or "", delivery.content_type or "")
    body = replace(message, repeated=True).encode()
    return Outgoing(route(message), body, message.id, CONTENT_TYPE, message.priority)
