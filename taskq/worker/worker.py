"""The worker: owns the queues it serves, the loops beside them, its stopping.

What happens to a message is in `attempts`, what passes between workers in `neighbours`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from taskq.app import TaskQ
from taskq.broker.base import Broker, Delivery, longest_hold
from taskq.clock import Clock, FollowingClock
from taskq.dispatch import Dispatcher, control, limits
from taskq.errors import TaskqError
from taskq.http.request import HTTP_TASK
from taskq.keeper import Keeper
from taskq.queue import DEFAULT_QUEUE, Queue, QueueRecord
from taskq.store.base import Store
from taskq.worker.attempts import Attempts
from taskq.worker.deliveries import Deliveries
from taskq.worker.executor import Executor
from taskq.worker.keys import Keys
from taskq.worker.neighbours import Hearers, Neighbours
from taskq.worker.pools import Processes, Threads
from taskq.worker.queues import QueueServer
from taskq.worker.run import Abort, Places, Run
from taskq.worker.settle import Settler
from taskq.worker.spread import Peers
from taskq.worker.units import STOOD_STILL, Unit

if TYPE_CHECKING:
    from taskq.beat import Beat

logger = logging.getLogger("taskq.worker")
T = TypeVar("T")

TICK = 0.25  # seconds
LOOK_BUSY = 0.75  # seconds between looks for cancels and changed queues, with work in hand: a pause counts within one
LOOK_IDLE = 5.0  # and without
CANCELS_MOST = 10_000  # remembered before the store is asked which still matter
LOOK_AT_CLOCK = 10.0  # seconds between looks at the store's clock
WEIGH_EVERY = 5.0  # seconds between looks at the process's memory
SETTLE_GRACE = 5.0  # seconds to record and hand over once everything has stopped


class Worker:
    """Serves queues of an app, in the running event loop.

    Args:
        app: whose tasks it runs.
        app_ref: `module:app`, for the children of process tasks; None if there are none.
        queues: names; None serves `default`, every queue that the app's tasks and Queues name, and every
            queue made by an operator.
        concurrency: how many messages run at once in this process, all kinds together.
        grace: seconds that running tasks get at a stop.
        keeper: whether it may lead the keeping of the waiting room and the dead letters.
        beat: whether it stands for the seat of those who send what schedules say.
    """

    def __init__(
        self,
        app: TaskQ,
        *,
        app_ref: str | None = None,
        queues: list[str] | None = None,
        concurrency: int | None = None,
        grace: float | None = None,
        keeper: bool = True,
        beat: bool = False,
    ) -> None:
        self.app = app
        self.settings = app.settings
        self.clock: Clock = app.clock  # the store's time, once it is open
        self.id = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self.places = Places(concurrency or self.settings.concurrency)
        self.grace = self.settings.grace if grace is None else grace
        self.broker: Broker
        self.longest_hold: float
        self.store: Store
        self.settler: Settler
        self.keeper: Keeper | None = None
        self.beat: Beat | None = None
        self.peers = Peers()
        self.servers: dict[str, QueueServer] = {}
        self.attempts: Attempts
        self.keys: Keys
        self.deliveries: Deliveries
        self.neighbours: Neighbours
        self.started = asyncio.Event()
        self.recycling = ""
        self.told = False  # somebody called `stop`
        self.stuck_threads = False  # the process must end hard
        self._only = queues
        self._keeps = keeper
        self._beats = beat
        self._threads = Threads()
        self._processes = Processes(app_ref or "")
        self._executor = Executor(processes=self._processes, threads=self._threads, rng=app.rng)
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._look_soon = asyncio.Event()
        self._mark: str | None = None
        self._misses = 0  # times that broadcasts were missed
        self._made_up_for = 0  # so many of them were followed by a look at the store
        self._group: TaskGroup
        self._line: dict[Unit, None] = {}  # who lacks a place, in order
        self._looked = 0.0
        self._born = self._weighed = self.turned = self.clock.monotonic()

    # -- life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`; returns when everything in hand is settled or given back.

        Raises:
            BrokerUnavailable, StoreUnavailable, StoreMismatch, SchemaTooNew, QueueMismatch: at start.
        """
        client = self.app.client()
        self.broker = await client.broker()
        self.store = await client.store()
        self.clock = clock = FollowingClock(self.app.clock, self.store.now if self.store.own_clock else None)
        await clock.look()
        self.longest_hold = longest_hold(self.broker.facts, self.settings.broker_ack_timeout)
        assert client.dispatcher is not None
        self.settler = Settler(
            store=self.store,
            broker=self.broker,
            dispatcher=client.dispatcher,
            clock=self.clock,
            worker=self.id,
            on_due=lambda due: self.neighbours.due(due),
        )
        self.keys = Keys(
            store=self.store,
            clock=clock,
            worker=self.id,
            bounded=self.settings.flow_parallelism is not None,
            spawn=self._spawn,
        )
        self.deliveries = Deliveries(store=self.store, clock=clock, settings=self.settings)
        self.attempts = Attempts(
            app=self.app,
            clock=clock,
            worker=self.id,
            store=self.store,
            settler=self.settler,
            places=self.places,
            executor=self._executor,
            longest_hold=lambda: self.longest_hold,
            lives=self.peers.__contains__,
            keys=self.keys,
            built_in={HTTP_TASK: self.deliveries.task(self.app)},
            spawn=self._spawn,
            on_first=self._first_work,
        )
        self.neighbours = Neighbours(
            worker=self.id,
            broker=self.broker,
            clock=self.clock,
            places=self.places,
            servers=self.servers,
            peers=self.peers,
            keeper=lambda: self.keeper,
            beat=lambda: "" if self.beat is None else self.beat.standing,
            hearers=Hearers(
                cancel=self.attempts.cancel,
                granted=self.attempts.call,
                want=self.settler.want,
                changed=self._look_soon.set,
                rotated=self.deliveries.forget_keys,
                missed=self._missed,
            ),
        )
        self.places.on_free = self._pump
        self.app.adopt_loop(asyncio.get_running_loop())
        try:
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._following, clock)
                await self._start(client.dispatcher)
                self.started.set()
                await self._stop.wait()
                await self._drain()
                self._group.cancel_scope.cancel()
        finally:
            self.app.adopt_loop(None)
            self._threads.close()
            with anyio.CancelScope(shield=True):
                await self._processes.close()
                await self.deliveries.close()

    async def _start(self, dispatcher: Dispatcher) -> None:
        self.check_timeouts()
        self._group.start_soon(self._turning)
        self._group.start_soon(self.settler.group.run)
        self._group.start_soon(self.attempts.claims.run)
        self._group.start_soon(self.keys.asks.run)
        await self.neighbours.listen()
        await self._look()
        for queue in self._declared():
            await self._serve(await self.store.ensure_queue(queue, origin="code" if limits(queue) else "name"))
            self.broker.broadcast(control({"changed": queue.name}))
        if self._keeps:
            self.keeper = Keeper(
                broker=self.broker, store=self.store, dispatcher=dispatcher, clock=self.clock, settings=self.settings
            )
            self._group.start_soon(self.keeper.run)
        if self._beats:
            from taskq.beat import Beat  # here: it brings all that reads schedules, which most workers never need

            self.beat = Beat(
                declared=list(self.app.scheduled.values()),
                broker=self.broker,
                store=self.store,
                dispatcher=dispatcher,
                clock=self.clock,
                settings=self.settings,
            )
            self._group.start_soon(self.beat.run)
        self.neighbours.announce(join=True)
        for loop in (self._ticking, self._looking, self.neighbours.announcing):
            self._group.start_soon(loop)

    def _declared(self) -> list[Queue]:
        if self._only is not None:
            return [self.app.queue_named(name) for name in self._only]
        queues = {DEFAULT_QUEUE: self.app.queue_named(DEFAULT_QUEUE), **self.app.queues}
        return list(queues.values())

    def check_timeouts(self) -> None:
        """Say, or refuse, what a broker without a timeout per queue would do to long tasks."""
        if self.broker.facts.queue_ack_timeout or self._only == []:
            return
        limit = self.settings.broker_ack_timeout
        version = ".".join(map(str, self.broker.facts.version))
        logger.warning(
            "%s %s obeys no acknowledgement timeout per queue: a task that runs longer than the broker's own "
            "consumer_timeout (%g s by the setting broker_ack_timeout) runs again; raise it in rabbitmq.conf",
            self.broker.facts.product,
            version,
            limit,
        )
        for task in self.app.tasks.values():
            if task.definition.timeout is not None and task.definition.timeout > limit:
                raise InvalidTimeout(task.name, task.definition.timeout, limit)

    def stop(self, *, now: bool = False) -> None:
        """Take nothing new, finish within the grace, give the rest back; `now` gives it back at once."""
        self.told = True
        self.recycling = ""  # whoever stops it wants no successor
        self._stop.set()
        if now:
            self._stop_now.set()

    @property
    def stopping(self) -> bool:
        """It takes nothing new any more."""
        return self._stop.is_set()

    def recycle(self, why: str) -> None:
        """Stop so that a fresh process can take over (`recycling` tells the process that runs this worker)."""
        if not self.stopping:
            logger.warning("this worker is to be replaced: %s", why)
            self.recycling = why
            self._stop.set()

    async def _drain(self) -> None:
        for server in self.servers.values():
            server.stop()
        waits = [asyncio.create_task(self.attempts.idle()), asyncio.create_task(self._stop_now.wait())]
        await asyncio.wait(waits, timeout=self.grace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for run in list(self.attempts.runs.values()):
            run.abort_with(Abort.SHUTDOWN)
        try:
            async with asyncio.timeout(SETTLE_GRACE):
                await self._hand_over()
        except TimeoutError:
            logger.warning("stopped before everything in hand was recorded: it runs again elsewhere")

    async def _hand_over(self) -> None:
        await self.attempts.idle()
        await self.settler.drained()
        for seated in (self.beat, self.keeper):
            if seated is not None:
                await seated.stop()
        # A thread that runs on keeps its channel until the process is gone: nobody may have its message before.
        stuck = {run.unit.server for run in self.attempts.runs.values() if run.abandoned} | self.attempts.abandoned
        self.stuck_threads = bool(stuck) or self._threads.running > 0
        for server in self.servers.values():
            if server not in stuck:
                await server.stopped()
        self.neighbours.leave()

    # -- queues -----------------------------------------------------------------------------

    async def _serve(self, record: QueueRecord) -> None:
        server = self.servers.get(record.name)
        if server is None:
            server = QueueServer(
                record,
                host=self,
                store=self.store,
                spawn=self._spawn,
                shared=lambda name: self.peers.serving(name) > 0,
            )
            self.servers[record.name] = server
        await server.apply(record)

    def _pump(self) -> None:
        """Places are free: who lacked one takes it, in turn."""
        while self._line and self.places.free > 0:
            unit = next(iter(self._line))
            del self._line[unit]
            unit.pump()

    def in_hand(self) -> list[Run]:
        """The runs that are here now; from any thread."""
        return list(self.attempts.runs.values()) if self.started.is_set() else []

    # -- what units need --------------------------------------------------------------------

    def accept(self, delivery: Delivery, unit: Unit) -> Run | None:
        """See `units.Host`."""
        return self.attempts.accept(delivery, unit)

    def line_up(self, unit: Unit) -> None:
        """See `units.Host`."""
        self._line.setdefault(unit)

    def claim(self, run: Run) -> None:
        """See `units.Host`."""
        self.attempts.claim(run)

    def give_back(self, run: Run) -> None:
        """See `units.Host`."""
        self.attempts.give_back(run)

    def forget(self, run: Run) -> None:
        """See `units.Host`."""
        self.attempts.forget(run)

    def start(self, run: Run) -> None:
        """See `units.Host`."""
        if self._misses > self._made_up_for:
            run.claim = True  # a cancel may have been missed, and the claim reads it
        self.attempts.start(run)

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run it beside everything else; it ends with the worker, and its errors end the worker."""
        self._group.start_soon(work, *args)

    # -- loops ------------------------------------------------------------------------------

    async def _turning(self) -> None:
        while True:
            before, self.turned = self.turned, self.clock.monotonic()
            if self.turned - before >= STOOD_STILL:
                for server in self.servers.values():
                    server.pump()  # what did not begin meanwhile
            await self.clock.sleep(TICK)

    async def _ticking(self) -> None:
        while True:
            await self.clock.sleep(TICK)
            now = self.clock.monotonic()
            for server in self.servers.values():
                for unit in server.units:
                    unit.tick(now)
            await self.attempts.show_long_runs(now)
            self.keys.tick(now)
            await self._listen_again(now)
            self.neighbours.step(now)
            self._check_age(now)

    async def _listen_again(self, now: float) -> None:
        """Look after one unit that may be deaf; they take turns."""
        hungry = [unit for server in self.servers.values() for unit in server.units if unit.hungry(now)]
        if hungry:
            await self._try(min(hungry, key=lambda unit: unit.heard).listen_again())

    async def _try(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except TaskqError as error:
            logger.warning("%s", error)
            return None

    async def _looking(self) -> None:
        """Cancels and queues that changed: broadcasts tell at once, this finds what they did not."""
        while True:
            try:
                async with asyncio.timeout(LOOK_BUSY):
                    await self._look_soon.wait()
            except TimeoutError:
                if not self.attempts.runs and self.clock.monotonic() - self._looked < LOOK_IDLE:
                    continue
            self._look_soon.clear()
            await self._try(self._look())
            self._looked = self.clock.monotonic()

    async def _look(self) -> None:
        if len(self.attempts.cancels) > CANCELS_MOST:
            self._mark = None
        misses = self._misses
        # What is told while the store is asked is not in its answer, and stays.
        known = set(self.attempts.cancels) if self._mark is None else set()
        changes = await self.store.changes(self._mark)
        self.attempts.cancels -= known
        self._mark = changes.mark
        for message_id in changes.cancels:
            self.attempts.cancel(message_id)
        for record in changes.queues:
            if record.name in self.servers:
                await self._serve(record)
            elif self._only is None and record.origin == "operator":
                await self._serve(record)
        for name in changes.deleted:
            server = self.servers.pop(name, None)
            if server is not None:
                server.stop()
        self._made_up_for = misses

    async def _following(self, clock: FollowingClock) -> None:
        """Stay with the store's clock."""
        while True:
            await clock.sleep(LOOK_AT_CLOCK)
            await self._try(clock.look())

    def _missed(self) -> None:
        self._misses += 1
        self._mark = None
        self._look_soon.set()

    def _first_work(self) -> None:
        """The first work for a while: what was missed meanwhile counts now."""
        if self.clock.monotonic() - self._looked > LOOK_BUSY:
            self._look_soon.set()

    def _check_age(self, now: float) -> None:
        settings = self.settings
        if settings.recycle_after_tasks is not None and self.attempts.done >= settings.recycle_after_tasks:
            self.recycle(f"it has run {self.attempts.done} attempts")
        elif settings.recycle_after_seconds is not None and now - self._born > settings.recycle_after_seconds:
            self.recycle(f"it is {now - self._born:.0f} s old")
        elif settings.recycle_after_memory_mb is not None and now - self._weighed > WEIGH_EVERY:
            self._weighed = now
            used = memory_mb()
            if used > settings.recycle_after_memory_mb:
                self.recycle(f"it uses {used:.0f} MB")


class InvalidTimeout(TaskqError, ValueError):
    """A task may run longer than the broker allows."""

    def __init__(self, task: str, timeout: float, limit: float) -> None:
        super().__init__(
            f"task {task!r} may run {timeout:g} s, and this broker takes a message back after {limit:g} s: raise "
            "consumer_timeout in rabbitmq.conf and the setting broker_ack_timeout, or lower the task's timeout"
        )


def memory_mb() -> float:
    """Resident memory of this process, in megabytes; by /proc, 0 where there is none."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except FileNotFoundError:
        return 0.0
