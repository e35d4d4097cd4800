"""The keeper: who holds its seat books what waits, releases what is due, archives dead letters, and prunes.

Two leaders at one moment (a partition) do no harm: rows are claimed before they are published,
bookings and archive entries are keyed, and copies of a message are told apart by id and hop.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from taskq.broker.base import Broker, BrokerQueue, Kind
from taskq.clock import Clock
from taskq.dispatch import Dispatcher, control
from taskq.keeper.intake import Archive, Booking
from taskq.keeper.release import Release
from taskq.seat import Seat
from taskq.settings import Settings
from taskq.store.base import Retention, Store

SEAT = BrokerQueue(Kind.SLOT, "keeper", ordered=True)
PRUNE_EVERY = 60.0  # seconds


class Keeper:
    """One process's candidate for the seat. The clock tells the store's time."""

    def __init__(
        self, *, broker: Broker, store: Store, dispatcher: Dispatcher, clock: Clock, settings: Settings
    ) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._retention = Retention(
            results=settings.result_retention,
            dead_letters=settings.dead_letter_retention,
            log=settings.log_retention,
        )
        self._release = Release(
            store=store,
            dispatcher=dispatcher,
            clock=clock,
            flow_parallelism=settings.flow_parallelism,
            on_heads=self._tell_heads,
        )
        self._seat = Seat(SEAT, self._lead, broker=broker, store=store, clock=clock, settings=settings)

    @property
    def leading(self) -> bool:
        """It holds the seat."""
        return self._seat.leading

    def due(self, due_ms: int) -> None:
        """A message was parked until then."""
        self._release.due(due_ms)

    async def run(self) -> None:
        """Stand for the seat, and lead while it is held; until `stop`."""
        await self._seat.run()

    async def stop(self) -> None:
        """Leave the seat to the next in line."""
        await self._seat.stop()

    async def _lead(self) -> None:
        booking = Booking(broker=self._broker, store=self._store, clock=self._clock, on_due=self.due)
        archive = Archive(broker=self._broker, store=self._store, clock=self._clock)
        parts = {
            "booking what waits": booking.run,
            "archiving dead letters": archive.run,
            "publishing what is due": self._release.run,
            "pruning": self._prune,
        }
        async with anyio.create_task_group() as group:
            for what, part in parts.items():
                group.start_soon(self._seat.insist, what, part)

    def _tell_heads(self, message_ids: Sequence[str]) -> None:
        self._broker.broadcast(control({"granted": list(message_ids)}))

    async def _prune(self) -> None:
        while True:
            while await self._store.prune(self._retention):
                await self._clock.sleep(0.05)  # others write meanwhile
            await self._clock.sleep(PRUNE_EVERY)
