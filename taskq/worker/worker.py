"""The worker: owns the queues it serves, the loops beside them, its stopping.

Reads like the life of a message: `accept` (a delivery becomes a run), `_attempts` (claimed if it
may have run before, checked, executed, settled, and again if it waits in place), `_let_go`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import anyio
import msgpack
from anyio.abc import TaskGroup

from taskq import dead_letter
from taskq.app import TaskQ
from taskq.broker.base import Broker, Delivery, longest_hold
from taskq.client import control
from taskq.clock import to_ms
from taskq.context import Context
from taskq.dispatch import Dispatcher, limits
from taskq.errors import InvalidMessage, TaskqError
from taskq.keeper import Keeper
from taskq.message import decode
from taskq.outcome import Again, Cancelled, Dead, Done, Expired, Failure, GivenBack, Later, Missed, Outcome
from taskq.queue import DEFAULT_QUEUE, Queue, QueueRecord
from taskq.store.base import Claim, Claimed, Settled, Store
from taskq.worker.executor import Executor
from taskq.worker.group import Group, insist
from taskq.worker.pools import Processes, Threads
from taskq.worker.queues import QueueServer
from taskq.worker.run import Abort, Places, Run, RunWaits
from taskq.worker.settle import Settler
from taskq.worker.spread import ANNOUNCE_EVERY, Peers, share, slot_share
from taskq.worker.units import FifoUnit, SlotUnit, Unit

logger = logging.getLogger("taskq.worker")
T = TypeVar("T")

TICK = 0.25  # seconds
SHOW_AFTER = 1.0  # seconds: a run that takes longer gets its row
LOOK_BUSY = 0.75  # seconds between looks for cancels and changed queues, with work in hand: a pause counts within one
LOOK_IDLE = 5.0  # and without
UNKNOWN_TASK_DELAY = 1.0  # seconds, doubled by every worker that does not know the task
UNKNOWN_TASK_DELAY_MOST = 60.0
STEP_EVERY = 1.0  # seconds between hand-overs
CANCELS_MOST = 10_000  # remembered before the store is asked which still matter
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
    ) -> None:
        self.app = app
        self.settings = app.settings
        self.clock = app.clock
        self.id = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self.places = Places(concurrency or self.settings.concurrency)
        self.grace = self.settings.grace if grace is None else grace
        self.broker: Broker
        self.longest_hold: float
        self.store: Store
        self.settler: Settler
        self.keeper: Keeper | None = None
        self.peers = Peers()
        self.servers: dict[str, QueueServer] = {}
        self.runs: dict[str, Run] = {}
        self.cancels: set[str] = set()
        self.misses: dict[str, int] = {}  # of FIFO heads whose task is not known here
        self.started = asyncio.Event()
        self.done = 0  # attempts that ended here
        self.recycling = ""
        self.told = False  # somebody called `stop`
        self.stuck_threads = False  # the process must end hard
        self.abandoned: set[QueueServer] = set()
        self._only = queues
        self._keeps = keeper
        self._threads = Threads()
        self._processes = Processes(app_ref or "")
        self._executor = Executor(processes=self._processes, threads=self._threads, rng=app.rng)
        self._claims: Group[Claim, Claimed]
        self._jobs: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._look_soon = asyncio.Event()
        self._announce_soon = asyncio.Event()
        self._mark: str | None = None
        self._group: TaskGroup
        self._turns = itertools.count()
        self._last_step = 0.0
        self._looked = 0.0
        self._born = self._weighed = self.clock.monotonic()

    # -- life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`; returns when everything in hand is settled or given back.

        Raises:
            BrokerUnavailable, StoreUnavailable, StoreMismatch, SchemaTooNew, QueueMismatch: at start.
        """
        client = self.app.client()
        self.broker = await client.broker()
        self.store = await client.store()
        self.longest_hold = longest_hold(self.broker.facts, self.settings.broker_ack_timeout)
        assert client.dispatcher is not None
        self.settler = Settler(
            store=self.store,
            broker=self.broker,
            dispatcher=client.dispatcher,
            clock=self.clock,
            worker=self.id,
            on_due=self._due,
        )
        self._claims = Group(self.store.claim, clock=self.clock, what="claiming messages")
        self.places.on_free = self._pump
        self.app.adopt_loop(asyncio.get_running_loop())
        try:
            async with anyio.create_task_group() as self._group:
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

    async def _start(self, dispatcher: Dispatcher) -> None:
        self.check_timeouts()
        self._group.start_soon(self.settler.group.run)
        self._group.start_soon(self._claims.run)
        await self.broker.listen(self._on_control, self._on_control_restored)
        await self._look()
        for queue in self._declared():
            await self._serve(await self.store.ensure_queue(queue, origin="code" if limits(queue) else "name"))
            self.broker.broadcast(control({"changed": queue.name}))
        if self._keeps:
            self.keeper = Keeper(
                broker=self.broker, store=self.store, dispatcher=dispatcher, clock=self.clock, settings=self.settings
            )
            self._group.start_soon(self.keeper.run)
        self._announce(join=True)
        for loop in (self._ticking, self._looking, self._announcing):
            self._group.start_soon(loop)

    def _declared(self) -> list[Queue]:
        if self._only is not None:
            return [self.app.queue_named(name) for name in self._only]
        queues = {DEFAULT_QUEUE: self.app.queue_named(DEFAULT_QUEUE), **self.app.queues}
        return list(queues.values())

    def check_timeouts(self) -> None:
        """Say, or refuse, what a broker without a timeout per queue would do to long tasks."""
        if self.broker.facts.queue_ack_timeout:
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
        waits = [asyncio.create_task(self._idle()), asyncio.create_task(self._stop_now.wait())]
        await asyncio.wait(waits, timeout=self.grace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for run in list(self.runs.values()):
            run.abort_with(Abort.SHUTDOWN)
        try:
            async with asyncio.timeout(SETTLE_GRACE):
                await self._hand_over()
        except TimeoutError:
            logger.warning("stopped before everything in hand was recorded: it runs again elsewhere")

    async def _hand_over(self) -> None:
        await self._idle()
        await self.settler.drained()
        if self.keeper is not None:
            await self.keeper.stop()
        # A thread that runs on keeps its channel until the process is gone: nobody may have its message before.
        stuck = {run.unit.server for run in self.runs.values() if run.abandoned} | self.abandoned
        self.stuck_threads = bool(stuck) or self._threads.running > 0
        for server in self.servers.values():
            if server not in stuck:
                await server.stopped()
        self.broker.broadcast(control({"bye": self.id}))

    async def _idle(self) -> None:
        """Return once no run is under way."""
        while self._jobs:
            await asyncio.wait(self._jobs)

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
        """Places are free: the queues take turns."""
        servers = list(self.servers.values())
        first = next(self._turns) % max(len(servers), 1)
        for server in servers[first:] + servers[:first]:
            for unit in server.units:
                unit.pump()
            if self.places.free <= 0:
                return

    # -- a delivery becomes a run -----------------------------------------------------------

    def accept(self, delivery: Delivery, unit: Unit) -> Run | None:
        """See `units.Host`."""
        try:
            message = decode(delivery.body, delivery.content_type)
        except InvalidMessage as error:
            self._beside(self._bury_bytes(delivery, unit, error))
            return None
        known = self.runs.get(message.id)
        if known is not None:
            # It is here already: this copy shares its fate. After a lost connection it is the one that counts.
            known.deliveries.append(delivery)
            return None
        now = self.clock.monotonic()
        if not self.runs and now - self._looked > LOOK_BUSY:
            self._look_soon.set()  # the first work for a while: what was missed meanwhile counts now
        run = Run(message, [delivery], unit, now, attempt=message.attempt)
        run.claim = delivery.redelivered or message.hop > 0 or message.repeated or message.recorded
        self.runs[message.id] = run
        return run

    def forget(self, run: Run) -> None:
        """See `units.Host`."""
        if self.runs.get(run.message.id) is run:
            del self.runs[run.message.id]

    def start(self, run: Run) -> None:
        """See `units.Host`."""
        run.job = asyncio.get_running_loop().create_task(self._attempts(run))
        self._jobs.add(run.job)
        run.job.add_done_callback(self._job_done)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self._group.start_soon(_raise, error)

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run it beside everything else; it ends with the worker, and its errors end the worker."""
        self._group.start_soon(work, *args)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._job_done)

    async def _bury_bytes(self, delivery: Delivery, unit: Unit, error: InvalidMessage) -> None:
        logger.error("queue %s: a message that is not ours: %s; dead-lettered", unit.queue.name, error)
        letter = dead_letter.of_bytes(
            delivery.body,
            delivery.content_type,
            queue=unit.queue.name,
            reason="invalid-message",
            failure=Failure("InvalidMessage", str(error)),
            worker=self.id,
            died_at=self.clock.now(),
            message_id=delivery.message_id or "",
        )
        await self.settler.bury(letter)
        delivery.acknowledge()

    # -- a run ------------------------------------------------------------------------------

    async def _attempts(self, run: Run) -> None:
        """From its start to its acknowledgement: one attempt, or several when it waits in place.

        A place is held on entry, and given back as soon as nothing runs.
        """
        holds_place = True
        try:
            while True:
                outcome: Outcome | Gone | NotYet | Denied | None = await self._claim(run) if run.claim else None
                if outcome is None:
                    outcome = self._verdict(run)
                if outcome is None and run.unit.server.record.rate_limit is not None:
                    outcome = await self._rate(run)
                if outcome is None:
                    outcome = await self._execute(run)
                self._leave_place(run)
                holds_place = False
                match outcome:
                    case Gone():
                        return self._let_go(run)
                    case NotYet(delay):
                        stays = await self._hold(run, delay)
                    case Denied():
                        return run.unit.put_back(run)
                    case GivenBack():
                        return await self._give_back(run)
                    case Missed(delay) if run.unit.in_place:
                        return await self._pass_on(run, delay)
                    case Again() | Later() if run.unit.in_place:
                        stays = await self._settle_in_place(run, outcome)
                    case _:
                        return self._settle(run, outcome)
                if not stays:
                    return self._return(run)
                await self._take_place(run)
                holds_place = run.claim = True
        finally:
            if holds_place:
                self._leave_place(run)

    def _leave_place(self, run: Run) -> None:
        run.unit.executing -= 1
        self.places.give()

    async def _take_place(self, run: Run) -> None:
        await self.places.take_back()
        run.unit.executing += 1

    async def _claim(self, run: Run) -> Outcome | Gone | NotYet | None:
        """Take the right to run. None: run it."""
        found = await self._take_claim(run)
        if found is None and run.crashes >= self.settings.max_crashes - 1 > 0:
            # It waits without a claim: else whoever runs alone before it and kills the process counts against it.
            await self._unclaim(run)
            await self.places.be_alone()
            await self.settler.drained()  # nor may one that has ended have its claim open still
            found = await self._take_claim(run)
        return found

    async def _take_claim(self, run: Run) -> Outcome | Gone | NotYet | None:
        claimed = await self._claims.call(Claim(run.message, self.id))
        if claimed.status.final or claimed.stale:
            run.acknowledge()
            return Gone()
        run.epoch, run.crashes = claimed.epoch, claimed.crashes
        run.attempt = max(run.attempt, claimed.attempt)
        run.shown = True
        if claimed.cancelled:
            return Cancelled()
        if run.crashes >= self.settings.max_crashes:
            text = f"the worker's process died {run.crashes} times while it ran this message"
            return Dead("crashed", Failure("Crashed", text))
        if claimed.not_before is not None:
            wait = (claimed.not_before - await self._insist(self.store.now)).total_seconds()
            if wait > 0:
                await self._unclaim(run)
                return NotYet(wait)
        return None

    async def _unclaim(self, run: Run) -> None:
        """Close the claim, or the row of a run that had none: it ends without a fault of its own."""
        if run.shown:
            run.shown = False
            await self._insist(lambda: self.store.give_back([(run.message.id, run.epoch)]))

    async def _insist(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await insist(work, clock=self.clock, what="the store")

    def _verdict(self, run: Run) -> Outcome | None:
        """What can be said without running it; None: run it."""
        message = run.message
        if message.id in self.cancels:
            return Cancelled()
        if run.abort is not None:
            return Cancelled() if run.abort is Abort.CANCELLED else GivenBack()
        if message.expires_at is not None and message.expires_at <= self.clock.now():
            return Expired()
        run.task = self.app.tasks.get(message.task)
        return self._unknown(run) if run.task is None else None

    def _unknown(self, run: Run) -> Outcome:
        """A worker with other code may know the task: it goes round for a while, then to the dead letters."""
        message = run.message
        misses = message.misses + self.misses.get(message.id, 0) + 1
        if misses >= self.settings.unknown_task_limit:
            self.misses.pop(message.id, None)
            text = f"no worker knows task {message.task!r} ({misses} looked)"
            return Dead("unknown-task", Failure("UnknownTask", text))
        logger.warning("queue %s: task %r is not known here", message.queue, message.task)
        return Missed(min(UNKNOWN_TASK_DELAY * 2 ** (misses - 1), UNKNOWN_TASK_DELAY_MOST))

    async def _pass_on(self, run: Run, delay: float) -> None:
        """Hand a FIFO head whose task is not known here to the next worker in line, after a pause."""
        self.misses[run.message.id] = self.misses.get(run.message.id, 0) + 1
        await self._unclaim(run)
        await self._hold(run, delay)
        run.unit.step_back()
        self._let_go(run)

    async def _rate(self, run: Run) -> Outcome | Denied | None:
        """Take a start of the queue's rate. Denied: back in line until the window opens."""
        server = run.unit.server
        rate = server.record.rate_limit
        assert rate is not None
        if await server.gate.take(server.record.name, rate, self._spawn):
            return self._verdict(run) if run.abort is not None else None
        await self._unclaim(run)
        run.job = None
        return Denied()

    async def _execute(self, run: Run) -> Outcome:
        run.started_at = self.clock.now()
        run.began = self.clock.monotonic()
        unit = run.unit
        context = run.context = Context(
            id=run.message.id,
            task=run.message.task,
            queue=run.message.queue,
            attempt=run.attempt,
            headers=run.message.headers,
            fifo=isinstance(unit, FifoUnit),
            lane=unit.queue.index if unit.server.record.partitions is not None else None,
        )
        loop = asyncio.get_running_loop()
        context.waits = RunWaits(run, self.places, loop)

        def progress(done: int, total: int) -> None:
            loop.call_soon_threadsafe(self._progress, run, done, total)

        context._progress = progress
        outcome = await self._executor.run(run)
        self.done += 1
        unit.executed(self.clock.monotonic() - run.began)
        return outcome

    def _settle(self, run: Run, outcome: Outcome) -> None:
        if isinstance(outcome, Done) and self._unrecorded(run):
            run.acknowledge()
            return self._let_go(run)

        def settled(result: Settled) -> None:
            if run.abandoned and run.unit.ordered:
                self.abandoned.add(run.unit.server)  # its thread runs on: nobody may have the next one yet
            else:
                run.acknowledge()
            self._let_go(run)

        self.settler.settle(run, outcome, settled)

    def _unrecorded(self, run: Run) -> bool:
        """A success that nobody asked to be recorded, of a run that has no row and whose delivery still counts."""
        task = run.task
        return task is not None and not task.definition.result and not run.shown and run.delivery.valid

    async def _settle_in_place(self, run: Run, outcome: Again | Later) -> bool:
        """Record that it waits, and wait here. False: somebody else will run it."""
        recorded: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self.settler.settle(run, outcome, recorded.set_result)
        if await recorded is not Settled.APPLIED:
            run.acknowledge()
            return False
        return await self._hold(run, outcome.delay)

    async def _hold(self, run: Run, seconds: float) -> bool:
        """Wait with the head in hand. False: it is to be let go (a stop, a hand-over, a lost channel)."""
        run.context = None
        if not run.unit.wanted or (run.abort is not None and run.abort is not Abort.CANCELLED):
            return False
        run.wake = asyncio.Event()
        longest = self.longest_hold
        try:
            async with asyncio.timeout(min(seconds, longest)):
                await run.wake.wait()
        except TimeoutError:
            if seconds > longest:
                # The broker would take it back: whoever has the head next reads in its row when it may run.
                run.unit.step_back()
                return False
            return run.delivery.valid
        finally:
            run.wake = None
        return run.abort is Abort.CANCELLED and run.delivery.valid

    async def _give_back(self, run: Run) -> None:
        """The run ended without an outcome: it counts neither as an attempt nor as a crash."""
        await self._unclaim(run)
        if not run.unit.ordered:
            for delivery in run.deliveries:
                delivery.give_back()
        self._return(run)

    def _return(self, run: Run) -> None:
        """Unacknowledged: it goes back when its channel closes, or starts anew if the broker has brought it again."""
        self._let_go(run)
        if run.unit.ordered and run.unit.wanted and run.delivery.valid:
            run.unit.on_delivery(run.delivery)
            again = self.runs.get(run.message.id)
            if again is not None:
                again.claim = True

    def _let_go(self, run: Run) -> None:
        self.forget(run)
        run.unit.finished(run)

    def _progress(self, run: Run, done: int, total: int) -> None:
        run.progress = (done, total)

    # -- loops ------------------------------------------------------------------------------

    async def _ticking(self) -> None:
        while True:
            await self.clock.sleep(TICK)
            now = self.clock.monotonic()
            for server in self.servers.values():
                for unit in server.units:
                    unit.tick(now)
            await self._show_long_runs(now)
            await self._listen_again(now)
            self._step(now)
            self._check_age(now)

    async def _listen_again(self, now: float) -> None:
        """Look after one unit that may be deaf; they take turns."""
        hungry = [unit for server in self.servers.values() for unit in server.units if unit.hungry(now)]
        if hungry:
            await self._try(min(hungry, key=lambda unit: unit.heard).listen_again())

    async def _show_long_runs(self, now: float) -> None:
        for run in list(self.runs.values()):
            if run.began is None or run.started_at is None or run.stop is None:
                continue
            if not run.shown and now - run.began > SHOW_AFTER:
                run.shown = True
                await self._show(run)
            if run.progress is not None and now - run.progress_at >= 1.0:
                progress, run.progress, run.progress_at = run.progress, None, now
                await self._try(self.store.progress(run.message.id, run.epoch, *progress))

    async def _show(self, run: Run) -> None:
        assert run.started_at is not None
        showing = self.store.running(
            run.message, worker=self.id, epoch=run.epoch, attempt=run.attempt, started_at=run.started_at
        )
        if await self._try(showing) is False:
            logger.warning("message %s runs elsewhere too, with a newer claim: this run is stopped", run.message.id)
            run.abort_with(Abort.LOST)

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
                if not self.runs and self.clock.monotonic() - self._looked < LOOK_IDLE:
                    continue
            self._look_soon.clear()
            await self._try(self._look())
            self._looked = self.clock.monotonic()

    async def _look(self) -> None:
        if len(self.cancels) > CANCELS_MOST:
            self._mark = None
        changes = await self.store.changes(self._mark)
        if self._mark is None:
            self.cancels.clear()
        self._mark = changes.mark
        for message_id in changes.cancels:
            self._cancel(message_id)
        for record in changes.queues:
            if record.name in self.servers:
                await self._serve(record)
            elif self._only is None and record.origin == "operator":
                await self._serve(record)
        for name in changes.deleted:
            server = self.servers.pop(name, None)
            if server is not None:
                server.stop()

    async def _announcing(self) -> None:
        while True:
            try:
                async with asyncio.timeout(ANNOUNCE_EVERY):
                    await self._announce_soon.wait()
            except TimeoutError:
                pass
            self._announce_soon.clear()
            self.peers.prune(self.clock.monotonic())
            self._announce(join=False)

    def _announce(self, *, join: bool) -> None:
        body = {"hello": self.id, "queues": list(self.servers), "join": join, "running": self.places.taken}
        held = {name: server.held for name, server in self.servers.items() if server.held}
        self.broker.broadcast(control(body | {"places": self.places.capacity, "keeper": self._leads(), "held": held}))

    def _leads(self) -> bool:
        return self.keeper is not None and self.keeper.leading

    # -- what other processes say -------------------------------------------------------------

    def _on_control(self, body: bytes) -> None:
        try:
            said = msgpack.unpackb(body)
            match said:
                case {"cancel": str(message_id)}:
                    self._cancel(message_id)
                case {"want": str(message_id), "reply": str(reply_to)}:
                    self.settler.want(message_id, reply_to)
                case {"changed": str()}:
                    self._look_soon.set()
                case {"due": int(due)}:
                    if self.keeper is not None:
                        self.keeper.due(due)
                case {"hello": str(worker), "queues": list(queues), "join": bool(join)}:
                    self._heard(worker, queues, said, join=join)
                case {"bye": str(worker)}:
                    self.peers.left(worker)
                case {"who": bool()}:
                    self._announce_soon.set()
                case _:
                    logger.debug("a broadcast of another version: %.200r", said)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            logger.warning("a broadcast that cannot be read: %s", error)

    def _on_control_restored(self) -> None:
        """Broadcasts were missed: read what they would have told."""
        self._mark = None
        self._look_soon.set()
        self._announce_soon.set()

    def _cancel(self, message_id: str) -> None:
        run = self.runs.get(message_id)
        if run is not None:
            run.abort_with(Abort.CANCELLED)
        self.cancels.add(message_id)

    def _heard(self, worker: str, queues: list[str], said: dict[str, Any], *, join: bool) -> None:
        if worker == self.id:
            return
        new = self.peers.heard(worker, queues, self.clock.monotonic(), said)
        if join:
            # The newcomer stands at the end of every line: whoever only waits goes behind it.
            for server in self.servers.values():
                for unit in server.units:
                    if unit.ordered and not unit.active and not unit.held:
                        unit.step_back()
        if new:
            self._announce_soon.set()

    def _due(self, due: datetime) -> None:
        """A message was parked: tell the keeper's leader if it is due before the leader looks by itself."""
        if self.keeper is not None and self.keeper.leading:
            self.keeper.due(to_ms(due))
        elif due - self.clock.now() < timedelta(seconds=3):
            self.broker.broadcast(control({"due": to_ms(due)}))

    # -- spread -----------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        """Hand one queue, lane or slot over if this worker is active on more than its share."""
        if not len(self.peers) or now - self._last_step < STEP_EVERY:
            return
        unit = self._above_share()
        if unit is not None:
            self._last_step = now
            unit.step_back()

    def _above_share(self) -> Unit | None:
        fifo = [unit for server in self.servers.values() for unit in server.units if isinstance(unit, FifoUnit)]
        active = [unit for unit in fifo if unit.active and not unit.stepping and unit.server.shared()]
        if len(active) > share([unit.queue.name for unit in fifo], self.peers):
            return active[0]
        for server in self.servers.values():
            slots = [unit for unit in server.units if isinstance(unit, SlotUnit)]
            holding = [unit for unit in slots if unit.holding and not unit.stepping]
            if server.shared() and len(holding) > slot_share(len(slots), server.record.name, self.peers):
                return holding[0]
        return None

    def _check_age(self, now: float) -> None:
        settings = self.settings
        if settings.recycle_after_tasks is not None and self.done >= settings.recycle_after_tasks:
            self.recycle(f"it has run {self.done} attempts")
        elif settings.recycle_after_seconds is not None and now - self._born > settings.recycle_after_seconds:
            self.recycle(f"it is {now - self._born:.0f} s old")
        elif settings.recycle_after_memory_mb is not None and now - self._weighed > WEIGH_EVERY:
            self._weighed = now
            used = memory_mb()
            if used > settings.recycle_after_memory_mb:
                self.recycle(f"it uses {used:.0f} MB")


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left to do: the message has its outcome, or a later copy of it is under way."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """It may not start for so many seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Denied:
    """Its queue's rate lets nothing start now."""


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


async def _raise(error: BaseException) -> None:
    raise error
