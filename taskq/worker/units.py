"""The parts of a queue that one worker consumes: an open queue, a FIFO queue or lane, a slot of a limited queue.

A unit turns deliveries into runs and starts them as order, limits and places allow. Its `run`
loop makes its subscriptions what they should be: nobody else opens or closes them. A channel
that holds ordered or limited work is closed only once its run has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from taskq.broker.base import Broker, BrokerQueue, Delivery, Loss, Subscription
from taskq.clock import Clock
from taskq.errors import QueueMissing, TaskqError
from taskq.worker.run import Abort, Places, Run

if TYPE_CHECKING:
    from taskq.worker.queues import QueueServer

logger = logging.getLogger("taskq.worker")

FAST = 0.005  # seconds: tasks that are quicker on average are fetched ahead
FAST_PREFETCH = 200  # of an open queue, or of all slots of a queue together
FASTEST = 0.001  # seconds: tasks of which more may be here, as they begin before they have waited too long
FASTEST_RECORDED = 1_000  # prefetch of these where outcomes are recorded: one group is, the next runs, another comes
MEASURED = 20  # runs before the average counts
STOOD_STILL = 0.75  # seconds without a turn of the loop, after which somebody else may have what is here
HELD_MOST = 1.0  # seconds that a message waits here for a place while another worker might have one
RETRY_SUBSCRIBE = 1.0  # seconds
LISTEN_AGAIN_AFTER = 5.0  # seconds without a delivery before the broker is asked whether there is any
DEAF_AFTER = 2  # such looks in a row that found messages
DEAF_BEHIND_OTHERS = 6  # the same, where another worker may be the active consumer


class Host(Protocol):
    """What a unit needs of its worker."""

    broker: Broker
    clock: Clock
    places: Places
    longest_hold: float  # seconds for which a delivery may be kept without work
    turned: float  # monotonic: when the loop was last seen to turn, which is looked at a few times a second

    def accept(self, delivery: Delivery, unit: Unit) -> Run | None:
        """The run of a delivery; None if it needs none (a duplicate, no message of ours)."""
        ...

    def start(self, run: Run) -> None:
        """Begin the run; its place is taken."""
        ...

    def claim(self, run: Run) -> None:
        """Claim it ahead of its turn; the unit's `claimed` is told."""
        ...

    def give_back(self, run: Run) -> None:
        """Let another worker have it, which was claimed ahead and is `held`: its claim is closed first."""
        ...

    def line_up(self, unit: Unit) -> None:
        """Pump the unit when a place is free."""
        ...

    def forget(self, run: Run) -> None:
        """The run's delivery has become invalid before it started."""
        ...

    def recycle(self, why: str) -> None:
        """This process should be replaced soon."""
        ...


class Pace:
    """How long the attempts of a unit take: whether messages are fetched ahead of their turn."""

    def __init__(self) -> None:
        self._average = 0.0
        self._measured = 0
        self._fastest = False

    def add(self, seconds: float) -> None:
        """One more has taken so long."""
        self._measured += 1
        self._average += (0.05 if self._measured > 1 else 1.0) * (seconds - self._average)
        self._fastest = self._average < FASTEST * (2 if self._fastest else 1)

    @property
    def decided(self) -> bool:
        """The last one made the average count."""
        return self._measured == MEASURED

    @property
    def fast(self) -> bool:
        """A few milliseconds on average, of enough attempts."""
        return self._average < FAST and self._measured >= MEASURED

    @property
    def fastest(self) -> bool:
        """Much less than that; once it is so it stays so until they take twice as long."""
        return self._fastest and self._measured >= MEASURED

    def forget(self) -> None:
        """Measure anew."""
        self._measured = 0
        self._fastest = False


class Unit:
    """What the three kinds share."""

    ordered = True
    in_place = False

    def __init__(self, queue: BrokerQueue, server: QueueServer, host: Host) -> None:
        self.queue = queue
        self.server = server
        self.host = host
        self.buffer: deque[Run] = deque()
        self.held: set[Run] = set()  # from start to acknowledgement
        self.executing = 0
        self.prefetch = 0  # of the subscription; 0 is none
        self.pace = Pace()
        self.records = False  # outcomes are recorded: what has run stays in hand until it is
        self.active = False  # a delivery (or token) came since it last subscribed
        self.stopping = False
        self.stepping = False  # to the end of the line
        self.heard = host.clock.monotonic()  # when a message last came, or was looked for
        self.deaf = 0  # looks that found messages ready and none delivered, one after the other
        self.stuck = False  # a thread goes on after its run: what it holds is not handed over before the process ends
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()
        self.changed.set()
        self.subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.queue.name}.{self.queue.index}>"

    # -- deliveries -> runs -----------------------------------------------------------------

    def on_delivery(self, delivery: Delivery) -> None:
        """The broker's next message."""
        self.active = True
        self.heard, self.deaf = self.host.clock.monotonic(), 0
        run = self.host.accept(delivery, self)
        if run is None:
            return
        if run.claim and not delivery.redelivered and self.claims_ahead():
            self.held.add(run)
            self.host.claim(run)
            return
        self.buffer.append(run)
        self.pump()

    def claims_ahead(self) -> bool:
        """Whether what comes is claimed before its turn, many by one call."""
        return False

    def claimed(self, run: Run) -> None:
        """It was claimed ahead of its turn, and waits for a place, or goes back."""
        self.held.discard(run)
        self.buffer.append(run)
        if self.leaving():
            self.changed.set()
        self.pump()

    def on_old_delivery(self, delivery: Delivery) -> None:
        """One that was in hand begins anew: before what came after it."""
        run = self.host.accept(delivery, self)
        if run is not None:
            self.buffer.appendleft(run)
            self.pump()

    def pump(self) -> None:
        """Start what may start; what only lacks a place gets in line for one."""
        places = self.host.places
        while self.buffer:
            if places.free <= 0:
                return self.host.line_up(self)
            if not self.may_start():
                return
            run = self.buffer.popleft()
            places.take()
            self.executing += 1
            self.held.add(run)
            self.host.start(run)

    def may_start(self) -> bool:
        """Whether order and limits let one more begin here. What waits in place counts until it is gone."""
        busy = len(self.held) if self.in_place else self.executing
        return busy < self.most() and self.wanted and self.server.gate_open()

    def moving(self) -> bool:
        """The loop has turned lately: nobody else can have been given what waits here ahead of its turn."""
        return self.host.clock.monotonic() - self.host.turned < STOOD_STILL

    def most(self) -> int:
        """How many may execute here at once."""
        return 1

    def put_back(self, run: Run) -> None:
        """The run could not begin yet (its rate window is full): first in line again."""
        self.held.discard(run)
        self.buffer.appendleft(run)

    def ahead(self) -> int:
        """The prefetch of the queue while tasks take a few milliseconds."""
        return FASTEST_RECORDED if self.records and self.pace.fastest else FAST_PREFETCH

    def executed(self, seconds: float) -> None:
        """An attempt has taken so long."""
        self.pace.add(seconds)
        if self.pace.decided:
            self.changed.set()  # else the next tick would be the first to see it

    def finished(self, run: Run) -> None:
        """Acknowledged or let go: nothing of it is left here."""
        self.held.discard(run)
        if not self.held and self.leaving():
            self.changed.set()
        if self.buffer:
            self.pump()

    def leaving(self) -> bool:
        """Whether `reconcile` has something to do once nothing is held."""
        return not self.wanted

    def spares_records(self) -> bool:
        """Whether a success that nobody asked to be recorded may go without; asked for each of them."""
        return True

    def lend(self, places: int) -> None:
        """A run waits for a handle (+1), or has stopped waiting (-1)."""

    def abandon(self, run: Run, ended: asyncio.Event) -> None:
        """Its thread goes on after its time limit: only a new process brings the place back."""
        self.host.recycle(f"a thread of task {run.message.task!r} went on after its time limit")

    # -- subscriptions ----------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether this unit should consume now."""
        return not (self.stopping or self.stepping or self.stuck or self.server.paused)

    def stop(self) -> None:
        """Take nothing new; `ended` is set once all that is here is settled and the channels are closed."""
        self.stopping = True
        self.release_waiting()
        self.changed.set()

    def step_back(self) -> None:
        """Hand over, after the current message settles, and subscribe again at the end of the line."""
        self.stepping = True
        self.release_waiting()
        self.changed.set()

    def let_go_all(self) -> None:
        """Stop ordered work and leave its channel: the broker may be about to give it to somebody else."""
        for run in self.held:
            run.abort_with(Abort.LOST)
        self.step_back()

    def release_waiting(self) -> None:
        """Let go of heads that wait in place: their row knows when they may run."""
        for run in self.held:
            if run.wake is not None:
                run.abort_with(Abort.SHUTDOWN)

    def on_loss(self, loss: Loss) -> None:
        """The channel is gone, and with it every delivery in hand."""
        self.active = False
        self.drop_buffer()
        if self.ordered and loss is Loss.CONNECTION:
            # Somebody else may have the head, or the slot, in a moment: order and limits come first.
            for run in self.held:
                run.abort_with(Abort.LOST)
        self.changed.set()

    async def run(self) -> None:
        """Keep the subscriptions as they should be, until stopped and done."""
        while not self.ended.is_set():
            await self.changed.wait()
            self.changed.clear()
            try:
                if not self.stuck:
                    await self.reconcile()
            except TaskqError as error:
                logger.warning("consuming %r: %s", self, error)
                asyncio.get_running_loop().call_later(RETRY_SUBSCRIBE, self.changed.set)
            if self.stopping and not self.held and self.subscription is None and self.closed():
                self.ended.set()
            self.pump()

    async def reconcile(self) -> None:
        """One step towards what should be."""
        raise NotImplementedError

    def closed(self) -> bool:
        """Nothing but `subscription` is open."""
        return True

    def tick(self, now: float) -> None:
        """Called a few times a second."""

    def hungry(self, now: float) -> bool:
        """It consumes, has nothing in hand, and has heard nothing for a while: worth a look whether it is deaf."""
        subscription = self.subscription
        idle = self.wanted and not self.held and not self.buffer and now - self.heard > LISTEN_AGAIN_AFTER
        return idle and subscription is not None and subscription.active

    async def listen_again(self) -> None:
        """A consumer with room that gets nothing while messages are ready is made anew.

        One that stands in line behind the active consumer cannot be told from a deaf one: it goes to the
        end of the line, which costs nothing.
        """
        depth = await self.host.broker.depth(self.queue)
        self.heard = self.host.clock.monotonic()
        self.deaf = self.deaf + 1 if depth is not None and depth.ready > 0 else 0
        behind = isinstance(self, FifoUnit) and self.server.shared()
        if depth is not None and self.deaf >= (DEAF_BEHIND_OTHERS if behind else DEAF_AFTER) and not self.held:
            level = logging.DEBUG if behind else logging.WARNING
            logger.log(level, "%r gets none of %d messages that are ready: its channel is made anew", self, depth.ready)
            self.deaf = 0
            self.step_back()

    async def _close(self) -> None:
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            await subscription.close()
        self.drop_buffer()
        self.active = False
        self.prefetch = 0

    def drop_buffer(self) -> None:
        """Forget what had not started: the broker has it again."""
        while self.buffer:
            self._forget(self.buffer.popleft())

    def give_back_buffer(self) -> None:
        """Let another worker have what had not started; of an unordered queue that brings nothing more."""
        while self.buffer:
            run = self.buffer.pop()
            if self._forget(run):
                for delivery in run.deliveries:
                    delivery.give_back()

    def _forget(self, run: Run) -> bool:
        """One that had not started. False: it is given back as soon as its claim is closed."""
        if run.claimed is None:
            self.host.forget(run)
            return True
        self.held.add(run)
        self.host.give_back(run)
        return False

    def oldest_wait(self, now: float) -> float:
        """Seconds that the first message in line has waited here."""
        return now - self.buffer[0].received if self.buffer else 0.0


class OpenUnit(Unit):
    """An open queue: competing consumers, as many runs as the worker has places."""

    ordered = False

    def __init__(self, queue: BrokerQueue, server: QueueServer, host: Host) -> None:
        super().__init__(queue, server, host)
        self.lent = 0
        self.crowded = False

    def most(self) -> int:
        return self.server.record.worker_parallelism or self.host.places.capacity

    def target(self) -> int:
        """The prefetch that is right now: places, or more while tasks take a few milliseconds; 0 is none."""
        if not self.wanted or self.crowded:
            return 0
        base = self.base()
        limited = self.server.record.rate_limit is not None or self.server.record.worker_parallelism is not None
        return max(base, self.ahead()) if self.pace.fast and not limited else base

    def base(self) -> int:
        """The prefetch that fills the places."""
        return min(self.most(), self.host.places.capacity) + self.lent

    def lend(self, places: int) -> None:
        self.lent += places
        self.executing -= places
        if self.lent * places > 0:
            self.changed.set()  # more prefetch is needed at once, less can wait for the next tick
        self.pump()

    def tick(self, now: float) -> None:
        if self.crowded and self.host.places.free > 0 and self.server.gate_open():
            self.crowded = False
        elif self.oldest_wait(now) > HELD_MOST:
            self.crowded = True
            self.pace.forget()
            self.host.line_up(self)
        if self.target() != self.prefetch:
            self.changed.set()

    def claims_ahead(self) -> bool:
        """While more are fetched than may run."""
        return self.prefetch > self.base() and self.wanted and not self.crowded

    def leaving(self) -> bool:
        return self.crowded or super().leaving()

    def pump(self) -> None:
        super().pump()
        if self.crowded and not self.buffer:
            if self.host.places.free <= 0:
                self.host.line_up(self)
            elif self.server.gate_open():
                self.crowded = False
                self.changed.set()

    async def reconcile(self) -> None:
        want = self.target()
        if self.subscription is None and want:
            self.prefetch = want = min(want, self.base())
            self.subscription = await self.host.broker.subscribe(
                self.queue, self.on_delivery, prefetch=want, on_loss=self.on_loss
            )
            self.changed.set()  # more are right maybe
        elif self.subscription is not None and want != self.prefetch:
            await self.subscription.resize(want, ahead=want > self.base())
            self.prefetch = want
        if want == 0 and self.subscription is not None:
            self.give_back_buffer()
            if not self.held and not self.wanted:
                await self._close()
        if self.stepping and self.subscription is None:
            self.stepping = False
            self.changed.set()


class FifoUnit(Unit):
    """A FIFO queue or lane: the head runs, waits for its retries in place, and then the next.

    The next one is here already while the head runs, and begins as soon as the head is recorded and its
    acknowledgement written. A queue that was born FIFO and has been given more parallelism runs that many
    at a time here, on its one active consumer.
    """

    in_place = True

    def __init__(self, queue: BrokerQueue, server: QueueServer, host: Host) -> None:
        super().__init__(queue, server, host)
        self._ahead = True  # as long as every end is recorded

    def most(self) -> int:
        if self.server.record.partitions is not None:
            return 1
        return self.server.record.parallelism or self.host.places.capacity

    def target(self) -> int:
        """The prefetch that is right: one ahead, where one runs at a time and no rate makes the next one wait."""
        most = self.most()
        return 2 if most == 1 and self._ahead and self.server.record.rate_limit is None else most

    def spares_records(self) -> bool:
        """Not while the next one may be here: if the acknowledgement alone, which may be lost on its way, stood for
        the end of this one, it would run again after that one has begun. From then on none is fetched ahead."""
        if self.prefetch > self.most():
            self._ahead = False
            return False
        return True

    def may_start(self) -> bool:
        return super().may_start() and self.moving()

    def tick(self, now: float) -> None:
        if self.oldest_wait(now) > HELD_MOST and not self.held and self.server.gate_open() and self.server.shared():
            self.step_back()
        if self.subscription is not None and self.prefetch != self.target():
            self.step_back()
        self._renew(now)

    def _renew(self, now: float) -> None:
        """Send the head round, and what waits behind it, before the broker takes them back for the head's long run.

        They come to us again, in order, and it runs on.
        """
        if self.held and self.most() == 1 and now - self.heard > self.host.longest_hold:
            self.heard = now
            for run in [*self.held, *self.buffer]:
                run.delivery.give_back()

    def abandon(self, run: Run, ended: asyncio.Event) -> None:
        super().abandon(run, ended)
        self.stuck = True

    async def reconcile(self) -> None:
        if self.wanted and self.subscription is None:
            self.prefetch = self.target()
            self.subscription = await self.host.broker.subscribe(
                self.queue, self.on_delivery, prefetch=self.prefetch, on_loss=self.on_loss
            )
        elif not self.wanted:
            if self.server.paused:
                self.release_waiting()
            if not self.held:
                await self._close()
                if self.stepping:
                    self.stepping = False
                    self.changed.set()


class SlotUnit(Unit):
    """One slot of a limited queue: who holds its token may run one message at a time.

    While tasks take a few milliseconds the next ones are here already. They go back when one takes long, so
    that no other slot is idle meanwhile.
    """

    def __init__(
        self, slot: BrokerQueue, queue: BrokerQueue, server: QueueServer, host: Host, on_holding: Callable[[], None]
    ) -> None:
        super().__init__(queue, server, host)
        self.slot = slot
        self.holding = False
        self.excess = False
        self.gone = False
        self._token: Subscription | None = None
        self._token_delivery: Delivery | None = None
        self._renewed = 0.0
        self._on_holding = on_holding

    def __repr__(self) -> str:
        return f"<SlotUnit {self.slot.name}.{self.slot.index}>"

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        return self.server.record.retry_in_place

    @property
    def wanted(self) -> bool:
        return super().wanted and not self.excess and not self.gone

    def closed(self) -> bool:
        return self._token is None

    def may_start(self) -> bool:
        return self.holding and super().may_start() and (self.prefetch <= 1 or self.moving())

    def leaving(self) -> bool:
        return self.prefetch == 0 or not self.holding or super().leaving()

    def target(self) -> int:
        """The prefetch that is right now; 0 is none."""
        if not (self.wanted and self.holding):
            return 0
        record = self.server.record
        slots = record.parallelism or 1
        # With one slot the order of the queue is kept, and what waits in its place runs before the next.
        ahead = self.pace.fast and slots > 1 and not self.in_place and record.rate_limit is None
        return max(self.ahead() // slots, 1) if ahead else 1

    def tick(self, now: float) -> None:
        if self.oldest_wait(now) > HELD_MOST and self.server.gate_open():
            if self.prefetch > 1:
                self.pace.forget()
            elif not self.held and self.server.shared():
                self.step_back()
        if self.target() != self.prefetch:
            self.changed.set()
        self._renew(now)

    def abandon(self, run: Run, ended: asyncio.Event) -> None:
        super().abandon(run, ended)
        self.stuck = True

    def on_token(self, delivery: Delivery) -> None:
        """The token: kept, unacknowledged, for as long as the slot is held."""
        self._token_delivery = delivery
        self._renewed = self.host.clock.monotonic()
        self.holding = self.active = True
        self.changed.set()
        self._on_holding()

    def _renew(self, now: float) -> None:
        """Send the token round before the broker takes it back for being held too long; it comes to us again."""
        if self._token_delivery is not None and now - self._renewed > self.host.longest_hold:
            self._renewed = now
            self._token_delivery.give_back()

    def on_loss(self, loss: Loss) -> None:
        """With the token in hand the limit is kept: what runs goes on, as on an open queue."""
        if self._token_delivery is not None and self._token_delivery.valid:
            self.drop_buffer()
            self.changed.set()
        else:
            super().on_loss(loss)

    def on_token_loss(self, loss: Loss) -> None:
        self._token_delivery = None
        self.holding = self.active = False
        if loss is Loss.DELETED:
            self.gone = True  # what runs settles first: the limit was lowered, nobody else takes this slot
        else:
            for run in self.held:
                run.abort_with(Abort.LOST)
        self.changed.set()
        self._on_holding()

    async def reconcile(self) -> None:
        if self.wanted and self._token is None:
            try:
                self._token = await self.host.broker.subscribe(
                    self.slot, self.on_token, prefetch=1, on_loss=self.on_token_loss, redeclare=False
                )
            except QueueMissing:
                self.gone = True
        await self._fetch(self.target())
        if not (self.wanted and self.holding) and not self.held and self.subscription is not None:
            await self._close()
            self.active = self.holding
        if not self.wanted and not self.held and self._token is not None and self.subscription is None:
            token, self._token = self._token, None
            self._token_delivery = None
            await token.close()
            self.holding = self.active = False
            self._on_holding()
            if self.stepping:
                self.stepping = False
                self.changed.set()
        if self.gone and self._token is None and self.subscription is None:
            self.stopping = True

    async def _fetch(self, want: int) -> None:
        """Consume with that prefetch. One that held messages ahead stops first, and waits for the one that runs."""
        if self.subscription is None:
            if want and await self._alone():
                self.prefetch = 1
                self.subscription = await self.host.broker.subscribe(
                    self.queue, self.on_delivery, prefetch=1, on_loss=self.on_loss
                )
                self.changed.set()  # more are right maybe
            elif want:
                asyncio.get_running_loop().call_later(0.05, self.changed.set)
        elif want < self.prefetch and self.prefetch > 1:
            await self.subscription.resize(0)
            self.prefetch = 0
            self.give_back_buffer()
            self.changed.set()
        elif want > self.prefetch and (self.prefetch or not self.held):
            await self.subscription.resize(want, ahead=want > 1)
            self.prefetch = want

    async def _alone(self) -> bool:
        """With one slot the order of the queue is kept: the new holder waits until the last one has let go."""
        if self.server.record.parallelism != 1:
            return True
        depth = await self.host.broker.depth(self.queue)
        return depth is None or depth.consumers == 0
