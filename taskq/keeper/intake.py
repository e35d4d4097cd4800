"""From the broker into the store: waiting messages are booked, dead letters archived, in batches.

A delivery is acknowledged once the store has it; what the store cannot take yet stays in hand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from taskq import dead_letter
from taskq.broker.base import DEAD, WAITING, Broker, BrokerQueue, Delivery, Loss, Outgoing
from taskq.clock import Clock, to_ms
from taskq.errors import InvalidMessage
from taskq.group import Group
from taskq.message import decode
from taskq.outcome import Failure
from taskq.store.base import Store, WaitingRow

logger = logging.getLogger("taskq.keeper")

PREFETCH = 1000


class Intake:
    """Consumes one queue into the store."""

    queue: BrokerQueue

    def __init__(self, *, broker: Broker, store: Store, clock: Clock) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._group: Group[Delivery, None] = Group(self._take, clock=clock, what=f"taking in {self.queue.kind}")

    async def run(self) -> None:
        """Until cancelled; hands the queue over then."""
        subscription = await self._broker.subscribe(
            self.queue, self._on_delivery, prefetch=PREFETCH, on_loss=self._on_loss
        )
        try:
            await self._group.run()
        finally:
            await subscription.close()

    def _on_delivery(self, delivery: Delivery) -> None:
        self._group.submit(delivery, lambda _: delivery.acknowledge())

    def _on_loss(self, loss: Loss) -> None:
        logger.debug("the %s queue is delivered anew", self.queue.kind)

    async def _take(self, deliveries: list[Delivery]) -> list[None]:
        raise NotImplementedError


class Booking(Intake):
    """`taskq.waiting` -> the waiting room."""

    queue = WAITING

    def __init__(self, *, broker: Broker, store: Store, clock: Clock, on_due: Callable[[int], None]) -> None:
        super().__init__(broker=broker, store=store, clock=clock)
        self._on_due = on_due
        self._latest = clock.now()

    async def _take(self, deliveries: list[Delivery]) -> list[None]:
        rows: dict[int, WaitingRow] = {}
        for index, delivery in enumerate(deliveries):
            try:
                message = decode(delivery.body, delivery.content_type)
            except InvalidMessage as error:
                await self._bury(delivery, error)
            else:
                rows[index] = WaitingRow(message, message.not_before or self._now())
        try:
            await self._book(rows.values())
        except InvalidMessage:
            for index, row in rows.items():
                try:
                    await self._book([row])
                except InvalidMessage as error:
                    await self._bury(deliveries[index], error)
        return [None] * len(deliveries)

    async def _book(self, rows: Collection[WaitingRow]) -> None:
        if rows:
            await self._store.book(list(rows))
            self._on_due(min(to_ms(row.due_at) for row in rows))

    def _now(self) -> datetime:
        """Later with every message: what waits for its key alone keeps the order in which it came."""
        self._latest = max(self._clock.now(), self._latest + timedelta(microseconds=1))
        return self._latest

    async def _bury(self, delivery: Delivery, error: InvalidMessage) -> None:
        letter = dead_letter.of_bytes(
            delivery.body,
            delivery.content_type,
            queue="",
            reason="invalid-message",
            failure=Failure("InvalidMessage", str(error)),
            worker=None,
            died_at=self._clock.now(),
            message_id=delivery.message_id or "",
        )
        await self._broker.publish(
            Outgoing(DEAD, dead_letter.encode(letter), letter.message_id, dead_letter.CONTENT_TYPE)
        )


class Archive(Intake):
    """`taskq.dead` -> the archive."""

    queue = DEAD

    async def _take(self, deliveries: list[Delivery]) -> list[None]:
        now = self._clock.now()
        letters = [
            dead_letter.read(
                delivery.body, delivery.content_type, delivery.headers, message_id=delivery.message_id, now=now
            )
            for delivery in deliveries
        ]
        await self._store.archive(list({letter.id: letter for letter in letters}.values()))
        return [None] * len(deliveries)
