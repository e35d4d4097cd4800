"""A leader's seat: who holds the slot's token leads, and stops when it is lost.

Two may lead at one moment (a partition): what a leader does must be harmless then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio

from taskq.broker.base import Broker, BrokerQueue, Delivery, Loss, Subscription, longest_hold
from taskq.clock import Clock
from taskq.errors import TaskqError
from taskq.settings import Settings
from taskq.store.base import Store

logger = logging.getLogger("taskq.seat")

TRY_AGAIN = 1.0  # seconds after an error of broker or store


class Seat:
    """One process's candidate for it.

    Args:
        slot: the queue of the seat's token.
        lead: what the leader does; cancelled when the seat is lost. `insist` keeps its parts up.
    """

    def __init__(
        self,
        slot: BrokerQueue,
        lead: Callable[[], Coroutine[Any, Any, None]],
        *,
        broker: Broker,
        store: Store,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self.leading = False
        self._slot = slot
        self._do = lead
        self._broker = broker
        self._store = store
        self._clock = clock
        self._subscription: Subscription | None = None
        self._token: Delivery | None = None
        self._renew_every = longest_hold(broker.facts, settings.broker_ack_timeout)
        self._changed = asyncio.Event()
        self._scope: anyio.CancelScope | None = None
        self._stopping = False

    async def run(self) -> None:
        """Stand for the seat, and lead while it is held; until `stop`."""
        while not self._stopping:
            if self._subscription is None:
                await self.insist(f"standing for the {self._slot.name}'s seat", self._stand)
            await self._changed.wait()
            self._changed.clear()
            if self.leading and not self._stopping:
                await self._lead()

    async def stop(self) -> None:
        """Leave the seat to the next in line."""
        self._stopping = True
        self.leading = False
        self._changed.set()
        if self._scope is not None:
            self._scope.cancel()
        if self._subscription is not None:
            await self._subscription.close()

    async def insist(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run it until it returns; an error of broker or store is waited out."""
        while True:
            try:
                await work()
                return
            except TaskqError as error:
                logger.warning("%s: %s; trying again", what, error)
                await self._clock.sleep(TRY_AGAIN)

    async def _stand(self) -> None:
        await self._broker.declare_base(self._store.id)
        await self._broker.declare(self._slot)
        # Not declared again at each reconnect: the token is there, and another is of no use.
        self._subscription = await self._broker.subscribe(
            self._slot, self._on_token, prefetch=1, on_loss=self._on_loss, redeclare=False
        )

    def _on_token(self, delivery: Delivery) -> None:
        self._token = delivery
        if not self.leading:
            logger.info("this process is the %s now", self._slot.name)
            self.leading = True
            self._changed.set()

    def _on_loss(self, loss: Loss) -> None:
        self.leading = False
        if loss is Loss.DELETED:
            self._subscription = None
            self._changed.set()
        self._token = None
        if self._scope is not None:
            self._scope.cancel()

    async def _lead(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._scope = group.cancel_scope
                if not self.leading:
                    return
                group.start_soon(self._do)
                group.start_soon(self._renew)
        finally:
            self._scope = None

    async def _renew(self) -> None:
        """Send the token round before the broker takes it back for being held too long; it comes to us again."""
        while True:
            await self._clock.sleep(self._renew_every)
            if self._token is not None:
                self._token.give_back()
