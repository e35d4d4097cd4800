"""Emptying a queue: every message in it, or waiting for it, is recorded CANCELLED before the broker forgets it.

The queue is paused meanwhile, so that workers give back what they have not started. Nothing that
runs is touched: it settles as ever.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import msgpack

from taskq import dead_letter
from taskq.admin.drain import Advance, drain
from taskq.admin.limits import change
from taskq.broker.base import Broker, Delivery
from taskq.client import reply
from taskq.clock import Clock
from taskq.dispatch import broker_queues
from taskq.errors import InvalidMessage
from taskq.handle import Ending
from taskq.message import Message, decode
from taskq.outcome import Failure, Status
from taskq.queue import QueueRecord
from taskq.store.base import CancelEffect, Claim, Settlement, Store


class Purge:
    """One purge of one queue."""

    def __init__(self, *, broker: Broker, store: Store, clock: Clock, advance: Advance) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._advance = advance
        self._worker = f"purge-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._cancelled = 0

    async def run(self, record: QueueRecord, *, patience: float) -> int:
        """Empty the queue; how many messages were cancelled. Its paused state is then as it was.

        Args:
            patience: seconds that a worker may take to let go of a FIFO queue, whose messages come to one
                consumer alone.

        Raises:
            StillHeld: it did not; what was cancelled by then stays so.
        """
        name = record.name
        if not record.paused:
            await change(self._broker, self._store, name, paused=True)
        try:
            await self._waiting(name)
            for queue in broker_queues(record):
                depth = await self._broker.depth(queue)
                self._advance(0, self._cancelled + (depth.ready if depth is not None else 0))
                await drain(self._broker, queue, self._cancel, patience=patience)
            await self._waiting(name)  # what was on its way between the two
        finally:
            if not record.paused:
                await change(self._broker, self._store, name, paused=False)
        return self._cancelled

    async def _waiting(self, name: str) -> None:
        """Cancel what waits for the queue. What the keeper is just publishing surfaces in the queue, and is dropped."""
        cursor: str | None = None
        while True:
            page = await self._store.waiting(queue=name, cursor=cursor, limit=500)
            for row in page.items:
                if await self._store.cancel(row.message.id) is CancelEffect.DONE:
                    self._tell([row.message])
                    self._count(1)
            cursor = page.cursor
            if cursor is None:
                return

    async def _cancel(self, deliveries: Sequence[Delivery]) -> None:
        """Record a batch, then acknowledge it."""
        messages: list[Message] = []
        for delivery in deliveries:
            try:
                messages.append(decode(delivery.body, delivery.content_type))
            except InvalidMessage as error:
                await self._archive(delivery, error)
        await self.settle(messages)
        for delivery in deliveries:
            delivery.acknowledge()

    async def settle(self, messages: Sequence[Message]) -> None:
        """Record CANCELLED for those of the messages that have no outcome."""
        if not messages:
            return
        # Any of them may have run before: the claim tells, and fences a run that goes on elsewhere.
        claims = await self._store.claim([Claim(message, self._worker) for message in messages])
        now = self._clock.now()
        live = [
            Settlement(
                message=message,
                worker=self._worker,
                epoch=claim.epoch,
                status=Status.CANCELLED,
                attempt=claim.attempt,
                started_at=now,
                ended_at=now,
            )
            for message, claim in zip(messages, claims, strict=True)
            if not claim.status.final and not claim.stale
        ]
        # A message that came twice was claimed twice: its last claim is the one that counts.
        group = list({one.message.id: one for one in live}.values())
        if group:
            await self._store.settle(group)
        self._tell([one.message for one in group])
        self._count(len(group))

    def _tell(self, messages: Sequence[Message]) -> None:
        """Whoever waits for a result hears that none comes."""
        ending = Ending(Status.CANCELLED)
        for message in messages:
            if message.reply_to is not None:
                self._broker.send(message.reply_to, msgpack.packb([reply(message.id, ending)]))

    async def _archive(self, delivery: Delivery, error: InvalidMessage) -> None:
        letter = dead_letter.of_bytes(
            delivery.body,
            delivery.content_type,
            queue="",
            reason="invalid-message",
            failure=Failure("InvalidMessage", str(error)),
            worker=self._worker,
            died_at=self._clock.now(),
            message_id=delivery.message_id or "",
        )
        await self._store.archive([letter])

    def _count(self, number: int) -> None:
        self._cancelled += number
        self._advance(number)
