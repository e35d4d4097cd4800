"""From a message to its broker queue: one place that routes, publishes, and mends a missing route.

Used by the app, the worker and the keeper. A queue that is not there is made from the store's
row, which is the authority; the store is opened for that only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgpack

from taskq.broker.base import DEAD, WAITING, Broker, BrokerQueue, Kind, OnOutcome, Outgoing
from taskq.clock import Clock
from taskq.errors import QueueMissing, TaskqError
from taskq.http.request import PAYLOAD_TYPE
from taskq.message import CONTENT_TYPE, Message, decode
from taskq.queue import Queue, QueueRecord, lane_of

if TYPE_CHECKING:
    from taskq.store.base import OutboxRow, Store

KNOWN_FOR = 5.0  # seconds that a queue's row is remembered


def broker_queues(record: QueueRecord) -> list[BrokerQueue]:
    """The broker queues that hold the messages of a logical queue: one, or its lanes."""
    if record.partitions is not None:
        return [BrokerQueue(Kind.LANE, record.name, index, ordered=True) for index in range(record.partitions)]
    return [task_queue(record.name, record)]


def task_queue(name: str, record: QueueRecord | None = None) -> BrokerQueue:
    """The broker queue of an unpartitioned logical queue."""
    if record is None:
        return BrokerQueue(Kind.TASK, name)
    return BrokerQueue(Kind.TASK, name, ordered=record.born_fifo, priorities=record.born_priorities)


class Dispatcher:
    """Publishes messages where they belong."""

    def __init__(self, *, broker: Broker, open_store: Callable[[], Awaitable[Store]], clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._records: dict[str, tuple[float, QueueRecord | None]] = {}
        self._open_store = open_store
        self._targets: dict[tuple[str, bool], BrokerQueue] = {}

    async def send(self, message: Message, queue: Queue | QueueRecord | None = None) -> None:
        """Publish to the message's queue, or to the waiting room if it may not run yet.

        Args:
            queue: what is known of the message's queue; None: only its name.

        Raises:
            PublishUnconfirmed, BrokerUnavailable: as `Broker.publish`.
        """
        queue = await self._ranked(message, queue)
        outgoing = self.outgoing(message, queue)
        try:
            await self._broker.publish(outgoing)
        except QueueMissing:
            record = await self._make(message, queue)
            await self._broker.publish(self._routed(message, record))

    def offer(self, message: Message, queue: Queue, reply_to: str | None, on_outcome: OnOutcome) -> bool:
        """Publish as `Broker.offer` does; False also where the store must be asked first. A missing queue is not made.

        Args:
            reply_to: where the result is to be sent.
        """
        if message.priority and not _obeys_priorities(queue):
            return False
        return self._broker.offer(self.outgoing(message, queue, reply_to), on_outcome)

    async def send_many(
        self, messages: Sequence[tuple[Message, Queue | QueueRecord | None]]
    ) -> list[TaskqError | None]:
        """Publish all, waiting for the confirms together; for each None or its error."""
        messages = [(message, await self._ranked(message, queue)) for message, queue in messages]
        results = await self._broker.publish_many(self.outgoing(message, queue) for message, queue in messages)
        missing: dict[str, list[int]] = {}
        for index, result in enumerate(results):
            if isinstance(result, QueueMissing):
                missing.setdefault(messages[index][0].queue, []).append(index)
        for indexes in missing.values():
            again = await self._send_mended([messages[index] for index in indexes])
            for index, result in zip(indexes, again, strict=True):
                results[index] = result
        return results

    async def _ranked(self, message: Message, queue: Queue | QueueRecord | None) -> Queue | QueueRecord | None:
        """What is known of the queue; a message with a priority needs to know whether its queue obeys it."""
        if not message.priority or _obeys_priorities(queue) or (isinstance(queue, Queue) and limits(queue)):
            return queue
        now = self._clock.monotonic()
        known = self._records.get(message.queue)
        if known is None or now - known[0] > KNOWN_FOR:
            known = (now, await (await self._open_store()).get_queue(message.queue))
            self._records[message.queue] = known
        return known[1] or queue

    async def _send_mended(
        self, messages: Sequence[tuple[Message, Queue | QueueRecord | None]]
    ) -> list[TaskqError | None]:
        """Make the queue that all of these miss, and publish them in their order."""
        try:
            record = await self._make(*messages[0])
            return await self._broker.publish_many(self._routed(message, record) for message, _ in messages)
        except TaskqError as error:
            return [error for _ in messages]

    async def send_row(self, row: OutboxRow) -> None:
        """Publish an outbox row."""
        target = {"dead": DEAD, "waiting": WAITING}.get(row.target)
        if target is None:
            await self.send(decode(row.body, row.content_type))
            return
        outgoing = Outgoing(target, row.body, row.message_id, row.content_type)
        try:
            await self._broker.publish(outgoing)
        except QueueMissing:
            await self._broker.declare_base((await self._open_store()).id)
            await self._broker.publish(outgoing)

    def outgoing(self, message: Message, queue: Queue | QueueRecord | None, reply_to: str | None = None) -> Outgoing:
        """Where the message goes, as far as is known without asking the store."""
        body = message.encode(reply_to)
        if message.waits:
            return Outgoing(WAITING, body, message.id, CONTENT_TYPE)
        partitions = queue.partitions if queue is not None else None
        if partitions is not None and message.key is not None:
            to = BrokerQueue(Kind.LANE, message.queue, lane_of(message.key, partitions), ordered=True)
        else:
            to = self._target(message.queue, _obeys_priorities(queue))
        return Outgoing(to, body, message.id, CONTENT_TYPE, message.priority)

    def _target(self, name: str, priorities: bool) -> BrokerQueue:
        target = self._targets.get((name, priorities))
        if target is None:
            target = self._targets[name, priorities] = BrokerQueue(Kind.TASK, name, priorities=priorities)
        return target

    async def _make(self, message: Message, queue: Queue | QueueRecord | None) -> QueueRecord:
        """Declare what the message needs, from its queue's row, which is made if there is none."""
        store = await self._open_store()
        await self._broker.declare_base(store.id)
        if isinstance(queue, QueueRecord):
            record = await store.get_queue(queue.name) or await store.ensure_queue(
                _as_it_was(queue), origin=queue.origin
            )
        else:
            declared = queue or Queue(message.queue)
            origin = "gateway" if message.payload_type == PAYLOAD_TYPE else "name"
            record = await store.ensure_queue(declared, origin="code" if limits(declared) else origin)
        for broker_queue in broker_queues(record):
            await self._broker.declare(broker_queue)
        return record

    def _routed(self, message: Message, record: QueueRecord) -> Outgoing:
        if record.partitions is not None and message.key is None:
            # A message without a key, sent by name to a partitioned queue: its id decides, nothing is lost.
            message = replace(message, key=message.id)
        return self.outgoing(message, record)


def _obeys_priorities(queue: Queue | QueueRecord | None) -> bool:
    match queue:
        case Queue():
            return queue.priorities
        case QueueRecord():
            return queue.born_priorities
    return False


def _as_it_was(record: QueueRecord) -> Queue:
    """The queue that a record tells of, for one that was deleted since."""
    return Queue(
        record.name,
        parallelism=record.parallelism,
        rate_limit=record.rate_limit,
        worker_parallelism=record.worker_parallelism,
        priorities=record.born_priorities,
        partitions=record.partitions,
        retry_in_place=record.retry_in_place,
    )


def limits(queue: Queue) -> bool:
    """Whether a Queue says anything beyond its name."""
    return queue != Queue(queue.name)


def outbox_row(message: Message, kind: str, due_at: datetime) -> OutboxRow:
    """What makes sure that a message is published.

    Args:
        kind: why it is, which makes the row's id with the message's.
        due_at: when the keeper publishes it, should its sender not have done so.
    """
    from taskq.store.base import OutboxRow  # here: most producers need no store

    return OutboxRow(
        id=f"{message.id}/{kind}/{message.hop}",
        target="waiting" if message.waits else "queue",
        queue=message.queue,
        body=message.encode(),
        content_type=CONTENT_TYPE,
        message_id=message.id,
        due_at=due_at,
    )


def control(body: dict[str, Any]) -> bytes:
    """What is broadcast to all processes, as bytes."""
    return msgpack.packb(body)  # type: ignore[no-any-return]
