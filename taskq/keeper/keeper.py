"""The leader's seat: who holds the slot `keeper` runs the keeper's loops, and stops them when it is lost.

Two leaders at one moment (a partition) do no harm: rows are claimed before they are published,
bookings and archive entries are keyed, and copies of a message are told apart by id and hop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import anyio

from taskq.broker.base import Broker, BrokerQueue, Delivery, Kind, Loss, Subscription, longest_hold
from taskq.clock import Clock
from taskq.dispatch import Dispatcher
from taskq.errors import TaskqError
from taskq.keeper.intake import Archive, Booking
from taskq.keeper.release import Release
from taskq.settings import Settings
from taskq.store.base import Retention, Store

logger = logging.getLogger("taskq.keeper")

SEAT = BrokerQueue(Kind.SLOT, "keeper", ordered=True)
PRUNE_EVERY = 60.0  # seconds
TRY_AGAIN = 1.0  # seconds after an error of broker or store


class Keeper:
    """One process's candidate for the seat."""

    def __init__(
        self, *, broker: Broker, store: Store, dispatcher: Dispatcher, clock: Clock, settings: Settings
    ) -> None:
        self.leading = False
        self._broker = broker
        self._store = store
        self._clock = clock
        self._retention = Retention(
            results=settings.result_retention,
            dead_letters=settings.dead_letter_retention,
            log=settings.log_retention,
        )
        self._release = Release(store=store, dispatcher=dispatcher, clock=clock)
        self._seat: Subscription | None = None
        self._token: Delivery | None = None
        self._renew_every = longest_hold(broker.facts, settings.broker_ack_timeout)
        self._changed = asyncio.Event()
        self._scope: anyio.CancelScope | None = None
        self._stopping = False

    def due(self, due_ms: int) -> None:
        """A message was parked until then."""
        self._release.due(due_ms)

    async def run(self) -> None:
        """Stand for the seat, and lead while it is held; until `stop`."""
        await self._insist("standing for the keeper's seat", self._stand)
        while not self._stopping:
            await self._changed.wait()
            self._changed.clear()
            if self._seat is None and not self._stopping:
                await self._insist("standing for the keeper's seat", self._stand)
            if self.leading and not self._stopping:
                await self._lead()

    async def stop(self) -> None:
        """Leave the seat to the next in line."""
        self._stopping = True
        self.leading = False
        self._changed.set()
        if self._scope is not None:
            self._scope.cancel()
        if self._seat is not None:
            await self._seat.close()

    async def _stand(self) -> None:
        await self._broker.declare_base(self._store.id)
        await self._broker.declare(SEAT)
        # Not declared again at each reconnect: the token is there, and another is of no use.
        self._seat = await self._broker.subscribe(
            SEAT, self._on_token, prefetch=1, on_loss=self._on_loss, redeclare=False
        )

    def _on_token(self, delivery: Delivery) -> None:
        self._token = delivery
        if not self.leading:
            logger.info("this process keeps the waiting room and the dead letters now")
            self.leading = True
            self._changed.set()

    def _on_loss(self, loss: Loss) -> None:
        self.leading = False
        if loss is Loss.DELETED:
            self._seat = None
            self._changed.set()
        self._token = None
        if self._scope is not None:
            self._scope.cancel()

    async def _lead(self) -> None:
        booking = Booking(broker=self._broker, store=self._store, clock=self._clock, on_due=self.due)
        archive = Archive(broker=self._broker, store=self._store, clock=self._clock)
        try:
            async with anyio.create_task_group() as group:
                self._scope = group.cancel_scope
                if not self.leading:
                    return
                group.start_soon(self._insist, "booking what waits", booking.run)
                group.start_soon(self._insist, "archiving dead letters", archive.run)
                group.start_soon(self._insist, "publishing what is due", self._release.run)
                group.start_soon(self._insist, "pruning", self._prune)
                group.start_soon(self._renew)
        finally:
            self._scope = None

    async def _renew(self) -> None:
        """Send the token round before the broker takes it back for being held too long; it comes to us again."""
        while True:
            await self._clock.sleep(self._renew_every)
            if self._token is not None:
                self._token.give_back()

    async def _insist(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run it until it returns; an error of broker or store is waited out."""
        while True:
            try:
                await work()
                return
            except TaskqError as error:
                logger.warning("%s: %s; trying again", what, error)
                await self._clock.sleep(TRY_AGAIN)

    async def _prune(self) -> None:
        while True:
            while await self._store.prune(self._retention):
                await self._clock.sleep(0.05)  # others write meanwhile
            await self._clock.sleep(PRUNE_EVERY)
