"""Out of the waiting room: what is due, and let go by its key if it has one, is published onto its queue; and
publishes that others left undone are done.

The loop sleeps until the next due instant: it knows it from its own bookings, from what workers
tell, and from a look every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from taskq import dead_letter
from taskq.clock import Clock, to_ms
from taskq.dispatch import Dispatcher
from taskq.errors import BrokerUnavailable, StoreUnavailable, TaskqError
from taskq.message import Message
from taskq.outcome import Failure, Status
from taskq.queue import QueueRecord
from taskq.store.base import OutboxRow, Settlement, Store, WaitingRow

logger = logging.getLogger("taskq.keeper")

BATCH = 500
# Seconds that a claimed row belongs to this leader: longer than a publish may take, and what a message waits at most
# when the leader dies between claim and publish.
LEASE = 10.0
LOOK_EVERY = 2.5  # seconds: idle costs less than one query a second
OUTBOX_EVERY = 2.5  # seconds between looks for publishes left undone
AHEAD_FIRST = 16  # messages with keys that may be on a queue and not yet begun
AHEAD_LEAST, AHEAD_MOST = 4, 1000
MOMENT = 0.1  # seconds
REST_MOST = 0.05  # seconds between rounds of keys while what was let go has not begun
KEYS_EVERY = 10.0  # seconds between looks for keys where nothing waits for one
FRUITLESS_MOST = 20  # looks at keys that let nothing go, before a pause
KNOWN_FOR = 5.0  # seconds that a queue's row is remembered


class Release:
    """See the module.

    Args:
        clock: tells the store's time.
        flow_parallelism: at most so many messages with flow keys run at once, over all keys.
        on_heads: told of heads that their keys let go.
    """

    def __init__(
        self,
        *,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        flow_parallelism: int | None,
        on_heads: Callable[[Sequence[str]], None],
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._next_ms: float = 0
        self._sooner = asyncio.Event()
        self._records: dict[str, tuple[float, QueueRecord | None]] = {}
        self._outbox_at = 0.0
        self._on_heads = on_heads
        self._flow_parallelism = flow_parallelism
        self._after_key: str | None = None
        self._ahead = Ahead()
        self._fruitless = 0  # looks at keys, one after the other, that let nothing go
        self._keys_wait = True  # something waits for a key, perhaps
        self._keys_at = 0.0

    def due(self, due_ms: int) -> None:
        """Something is due then: look no later."""
        self._keys_wait = True
        if due_ms < self._next_ms:
            self._next_ms = due_ms
            self._sooner.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not await self._round():
                await self._sleep()

    async def _round(self) -> bool:
        """Publish a batch; False if there was nothing."""
        self._next_ms = float("inf")
        rows = await self._store.claim_due(BATCH, LEASE)
        if rows:
            await self._publish(rows)
        keyed = await self._let_go()
        outbox: list[OutboxRow] = []
        if self._clock.monotonic() >= self._outbox_at:
            outbox = await self._store.claim_outbox(BATCH, LEASE)
            await self._repair(outbox)
            if not outbox:
                self._outbox_at = self._clock.monotonic() + OUTBOX_EVERY
        return bool(rows or outbox or keyed)

    async def _let_go(self) -> bool:
        """Publish what its key lets go; the keys take turns. False: nothing more would go at once."""
        begun = self._clock.monotonic()
        if not self._keys_wait and begun < self._keys_at:
            return False
        self._keys_wait, self._keys_at = False, begun + KEYS_EVERY
        found = await self._store.let_go(
            self._after_key, BATCH, LEASE, ahead=self._ahead.of_queues, most=AHEAD_FIRST, total=self._flow_parallelism
        )
        self._fruitless = 0 if found.rows else self._fruitless + 1
        self._after_key = found.last
        self._keys_wait |= found.last is not None
        if found.next_at is not None:
            self._next_ms = min(self._next_ms, to_ms(found.next_at))
        if found.heads:
            self._on_heads(found.heads)
        if found.rows:
            await self._publish(found.rows)
            ended = self._clock.monotonic()
            self._ahead.went(found.rows, ended)
            if found.full:
                # What begins meanwhile makes the next round worth its statements.
                await self._clock.sleep(min(ended - begun, REST_MOST))
            return True
        return found.more and not found.full and self._fruitless % FRUITLESS_MOST != 0

    async def _sleep(self) -> None:
        """Until the next due instant, or until somebody tells of an earlier one."""
        due = await self._store.next_due()
        if due is not None:
            self._next_ms = min(self._next_ms, to_ms(due))
        while True:
            self._sooner.clear()
            wait = (self._next_ms - to_ms(self._clock.now())) / 1000
            try:
                async with asyncio.timeout(min(max(wait, 0.0), LOOK_EVERY)):
                    await self._sooner.wait()
            except TimeoutError:
                return

    async def _publish(self, rows: Sequence[WaitingRow]) -> None:
        copies: list[tuple[Message, QueueRecord | None]] = []
        for row in rows:
            record = await self._record(row.message.queue) if row.message.key is not None else None
            copies.append((row.message.released(), record))
        results = await self._dispatcher.send_many(copies)
        released = []
        for row, error in zip(rows, results, strict=True):
            if error is not None and not await self._answer(row, error):
                continue
            released.append((row.message.id, row.message.hop))
        await self._store.released(released)

    async def _record(self, name: str) -> QueueRecord | None:
        now = self._clock.monotonic()
        known = self._records.get(name)
        if known is None or now - known[0] > KNOWN_FOR:
            known = (now, await self._store.get_queue(name))
            self._records[name] = known
        return known[1]

    async def _answer(self, row: WaitingRow, error: TaskqError) -> bool:
        """True: the row is dealt with. What cannot be routed is dead-lettered alone; the rest keeps its row."""
        if isinstance(error, BrokerUnavailable | StoreUnavailable):
            logger.warning("releasing %s: %s; again in %g s", row.message.id, error, LEASE)
            return False
        logger.error("message %s cannot be routed to queue %r: %s", row.message.id, row.message.queue, error)
        await self._bury(row.message, Failure.of(error))
        return True

    async def _bury(self, message: Message, failure: Failure) -> None:
        """Record that it failed, and send it to the dead letters by way of the outbox."""
        now = self._clock.now()
        letter = dead_letter.of_message(
            message, reason="unroutable", attempts=message.attempt - 1, failure=failure, worker="", died_at=now
        )
        row = OutboxRow(
            id=f"{message.id}/dead/{message.hop}",
            target="dead",
            queue=message.queue,
            body=dead_letter.encode(letter),
            content_type=dead_letter.CONTENT_TYPE,
            message_id=message.id,
            due_at=now,
        )
        settlement = Settlement(
            message=message,
            worker="",
            epoch=await self._epoch(message.id),
            status=Status.FAILED,
            attempt=message.attempt,
            started_at=now,
            ended_at=now,
            reason="unroutable",
            failure=failure,
            outbox=(row,),
        )
        await self._store.settle([settlement])
        self._outbox_at = 0.0

    async def _epoch(self, message_id: str) -> int:
        known = await self._store.get(message_id)
        return known.epoch if known is not None else 0

    async def _repair(self, rows: Sequence[OutboxRow]) -> None:
        done = []
        for row in rows:
            try:
                await self._dispatcher.send_row(row)
            except TaskqError as error:
                logger.warning("publishing %s: %s; again in %g s", row.id, error, LEASE)
            else:
                done.append(row.id)
        await self._store.published(done)


class Ahead:
    """How many messages with keys each queue may hold that have not begun.

    Few, so that a key that comes late is not behind all that another key has let go; and as many as
    begin in a moment, so that no worker waits.
    """

    def __init__(self) -> None:
        self.of_queues: dict[str, int] = {}
        self._since: dict[str, tuple[float, int]] = {}

    def went(self, rows: Sequence[WaitingRow], now: float) -> None:
        """These were let go, at this instant, monotonic. Where as many begin in a moment as the queue may hold, it may
        hold twice as many; where but few do, half as many."""
        for queue, count in Counter(row.message.queue for row in rows).items():
            held = self.of_queues.setdefault(queue, AHEAD_FIRST)
            since, gone = self._since.get(queue, (now, -count))
            gone += count
            if now - since >= MOMENT:
                begun = gone * MOMENT / (now - since)
                held = held * 2 if begun >= held else held // 2 if begun * 4 <= held else held
                self.of_queues[queue] = min(max(held, AHEAD_LEAST), AHEAD_MOST)
                since, gone = now, 0
            self._since[queue] = since, gone
