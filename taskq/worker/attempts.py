"""A message's time in a worker: from its delivery to its acknowledgement.

`accept` makes a delivery a run; `_attempts` claims it if it may have run before, checks, executes and
settles it, and again if it waits in place; `_let_go` ends it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from taskq import dead_letter
from taskq.app import TaskQ
from taskq.broker.base import Delivery
from taskq.clock import Clock
from taskq.context import Context
from taskq.errors import InvalidMessage, TaskqError
from taskq.group import Group, insist
from taskq.http.request import request_of
from taskq.message import Message, decode
from taskq.outcome import (
    Again,
    Cancelled,
    Dead,
    Done,
    Expired,
    Failure,
    GivenBack,
    Held,
    Later,
    Missed,
    Outcome,
    Status,
)
from taskq.store.base import Claim, Claimed, Settled, Store
from taskq.task import Task
from taskq.worker.executor import Executor
from taskq.worker.keys import Keys
from taskq.worker.queues import QueueServer
from taskq.worker.run import Abort, Places, Run, RunWaits
from taskq.worker.settle import Settler
from taskq.worker.units import FifoUnit, Unit

logger = logging.getLogger("taskq.worker")
T = TypeVar("T")

SHOW_AFTER = 1.0  # seconds: a run that takes longer gets its row
UNKNOWN_TASK_DELAY = 1.0  # seconds, doubled by every worker that does not know the task
UNKNOWN_TASK_DELAY_MOST = 60.0
MISSES_MOST = 1000  # FIFO heads whose looks are remembered here
OVERDUE = 1.8  # of the longest hold: a run of that age may have been taken back from its worker for its age alone
CALLBACKS_FIRST_LOOK = 0.05  # seconds until a head that waits for its callbacks looks whether they are done
CALLBACKS_LOOK_MOST = 1.0
LOOK_ELSEWHERE = 1.0  # seconds between looks at a run that another worker goes on with


class Attempts:
    """The runs of one worker.

    Args:
        clock: tells the store's time.
        worker: its id.
        spawn: runs a coroutine for as long as the worker lives; its errors end the worker.
        longest_hold: seconds for which a delivery may be kept without work.
        lives: whether the worker of that id has been heard of lately.
        keys: the permits of flow keys.
        built_in: tasks that every worker knows, beside the app's.
        on_first: told when work comes after a while without any.
    """

    def __init__(
        self,
        *,
        app: TaskQ,
        clock: Clock,
        worker: str,
        store: Store,
        settler: Settler,
        places: Places,
        executor: Executor,
        longest_hold: Callable[[], float],
        lives: Callable[[str], bool],
        keys: Keys,
        built_in: Mapping[str, Task[..., Any]],
        spawn: Callable[..., None],
        on_first: Callable[[], None],
    ) -> None:
        self.app = app
        self.settings = app.settings
        self.clock = clock
        self.runs: dict[str, Run] = {}
        self.cancels: set[str] = set()
        self.misses: dict[str, int] = {}  # of FIFO heads whose task is not known here
        self.done = 0  # attempts that ended here
        self.abandoned: set[QueueServer] = set()  # where a thread runs on after its run
        self.claims: Group[Claim, Claimed] = Group(store.claim, clock=clock, what="claiming messages")
        self._id = worker
        self._store = store
        self._settler = settler
        self._places = places
        self._executor = executor
        self._longest_hold = longest_hold
        self._lives = lives
        self._keys = keys
        self._built_in = built_in
        self._spawn = spawn
        self._on_first = on_first
        self._jobs: set[asyncio.Task[None]] = set()

    async def idle(self) -> None:
        """Return once no run is under way."""
        while self._jobs:
            await asyncio.wait(self._jobs)

    def cancel(self, message_id: str) -> None:
        """Its cancel was asked for: stop it, or do not start it."""
        run = self.runs.get(message_id)
        if run is not None:
            run.abort_with(Abort.CANCELLED)
        self.cancels.add(message_id)

    def call(self, message_ids: Sequence[str]) -> None:
        """Their keys let these heads go: those that wait here ask again."""
        for message_id in message_ids:
            run = self.runs.get(message_id)
            if run is not None:
                run.called = True  # also one that is on its way to its wait
                if run.wake is not None:
                    run.wake.set()

    # -- a delivery becomes a run -----------------------------------------------------------

    def accept(self, delivery: Delivery, unit: Unit) -> Run | None:
        """The run of a delivery; None if it needs none: a copy of one that is here, or no message of ours."""
        try:
            message = decode(delivery.body, delivery.content_type)
        except InvalidMessage as error:
            self._beside(self._bury_bytes(delivery, unit, error))
            return None
        known = self.runs.get(message.id)
        if known is not None:
            known.join(delivery, unit, message.hop)
            return None
        now = self.clock.monotonic()
        if not self.runs:
            self._on_first()
        run = Run(message, [delivery], unit, now, attempt=message.attempt)
        run.claim = delivery.redelivered or message.hop > 0 or message.repeated or message.recorded
        self.runs[message.id] = run
        return run

    def forget(self, run: Run) -> None:
        """Its delivery has become invalid, or it has ended.

        What came by the channel of another unit, and was not acknowledged, is in hand there still.
        """
        if self.runs.get(run.message.id) is not run:
            return
        del self.runs[run.message.id]
        elsewhere = [(delivery, unit) for delivery, unit in run.copies if unit is not run.unit]
        later, run.later = elsewhere + run.later, []
        for delivery, unit in later:
            if delivery.valid:
                self._look_anew(delivery, unit, run)

    def _look_anew(self, delivery: Delivery, unit: Unit, run: Run) -> None:
        """Have a delivery that is in hand begin again from its claim, after that run of its message."""
        unit.on_old_delivery(delivery)
        again = self.runs.get(run.message.id)
        if again is not None:
            again.claim = True
            again.overtaken = run.overtaken
        unit.changed.set()

    def claim(self, run: Run) -> None:
        """Claim it ahead of its turn, without a place; its unit is told."""

        def found(claimed: Claimed) -> None:
            run.claimed = claimed
            if not (claimed.status.final or claimed.stale):
                run.epoch, run.shown = claimed.epoch, True
            run.unit.claimed(run)

        self.claims.submit(Claim(run.message, self._id), found)

    def give_back(self, run: Run) -> None:
        """Let another worker have one that was claimed ahead of its turn."""
        self._beside(self._give_back(run))

    def start(self, run: Run) -> None:
        """Begin the run, whose place is taken."""
        run.job = asyncio.get_running_loop().create_task(self._attempts(run))
        self._jobs.add(run.job)
        run.job.add_done_callback(self._job_done)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self._spawn(_raise, error)

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
            worker=self._id,
            died_at=self.clock.now(),
            message_id=delivery.message_id or "",
        )
        await self._settler.bury(letter)
        delivery.acknowledge()

    # -- a run ------------------------------------------------------------------------------

    async def _attempts(self, run: Run) -> None:
        """From its start to its acknowledgement: one attempt, or several when it waits in place.

        A place is held on entry, and given back as soon as nothing runs.
        """
        holds_place = True
        try:
            while True:
                outcome: Outcome | Gone | Told | NotYet | Denied | None = await self._claim(run) if run.claim else None
                if outcome is None:
                    outcome = self._verdict(run)
                if outcome is None and run.message.flow is not None:
                    outcome = await self._key(run)
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
                    case Missed() if run.unit.ordered:
                        run.unit.step_back()  # the slot to the next in line: it may know the task
                        return self._settle(run, outcome)
                    case Again() | Later() if run.unit.in_place:
                        if not await self._settle_in_place(run, outcome):
                            return self._let_go(run)
                        stays = await self._hold(run, outcome.delay)
                    case Told():
                        return await self._hold_for_callbacks(run)
                    case _ if run.unit.in_place and _calls_back(run.message):
                        if not await self._settle_in_place(run, outcome):
                            return self._let_go(run)
                        return await self._hold_for_callbacks(run)
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
        unit = run.unit
        unit.executing -= 1
        self._places.give()
        if unit.buffer:
            unit.pump()

    async def _take_place(self, run: Run) -> None:
        await self._places.take_back()
        run.unit.executing += 1

    async def _claim(self, run: Run) -> Outcome | Gone | Told | NotYet | None:
        """Take the right to run. None: run it."""
        if run.claimed is None and await self._goes_on_elsewhere(run):
            return NotYet(LOOK_ELSEWHERE)
        found = await self._take_claim(run)
        if found is None and run.crashes >= self.settings.max_crashes - 1 > 0:
            # It waits without a claim: else whoever runs alone before it and kills the process counts against it.
            await self._unclaim(run)
            await self._places.be_alone()
            await self._settler.drained()  # nor may one that has ended have its claim open still
            found = await self._take_claim(run)
        return found

    async def _goes_on_elsewhere(self, run: Run) -> bool:
        """Whether another worker, which lives, runs it and is to be waited for.

        To claim it would void that run, and begin another that lasts as long. So it is if the last run here was
        overtaken by that one, or if the broker took the message back from that worker for the age of its run.
        """
        age = OVERDUE * self._longest_hold()
        old = run.delivery.redelivered and (self.clock.now() - run.message.created_at).total_seconds() >= age
        if not (run.overtaken or old):
            return False
        record = await self._insist(lambda: self._store.get(run.message.id))
        if record is None or record.status is not Status.RUNNING or record.worker is None:
            return False
        if not self._lives(record.worker):
            return False
        started_at = record.started_at
        overdue = started_at is not None and (self.clock.now() - started_at).total_seconds() > age
        return run.overtaken or overdue

    async def _take_claim(self, run: Run) -> Outcome | Gone | Told | NotYet | None:
        claimed, run.claimed = run.claimed, None
        if claimed is None:
            claimed = await self.claims.call(Claim(run.message, self._id))
        if claimed.status.final and run.unit.in_place and _calls_back(run.message):
            return Told()
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
            wait = (claimed.not_before - await self._insist(self._store.now)).total_seconds()
            if wait > 0:
                await self._unclaim(run)
                return NotYet(wait)
        return None

    async def _unclaim(self, run: Run) -> None:
        """Close the claim, or the row of a run that had none: it ends without a fault of its own."""
        if run.message.flow is not None:
            await self._keys.give_back(run)
        if run.shown:
            run.shown = False
            await self._insist(lambda: self._store.give_back([(run.message.id, run.epoch)]))

    async def _insist(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await insist(work, clock=self.clock, what="the store")

    def _verdict(self, run: Run) -> Outcome | None:
        """What can be said without running it; None: run it."""
        message = run.message
        if message.id in self.cancels:
            return Cancelled()
        if run.abort is not None:
            return Cancelled() if run.abort is Abort.CANCELLED else GivenBack()
        if not run.delivery.valid:
            return GivenBack()  # its channel went before it began: whoever gets it next runs it
        if message.expires_at is not None and message.expires_at <= self.clock.now():
            return Expired()
        run.task = self._built_in.get(message.task) or self.app.tasks.get(message.task)
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
        if len(self.misses) > MISSES_MOST:
            del self.misses[next(iter(self.misses))]  # run by another worker long since
        await self._unclaim(run)
        await self._hold(run, delay)
        run.unit.step_back()
        self._let_go(run)

    async def _key(self, run: Run) -> Outcome | NotYet | None:
        """Take a permit of the message's key. Without one it waits: a head where it is, others with the keeper."""
        assert run.task is not None
        run.task.prepare()
        run.called = False
        permit = await self._keys.take(run)
        if permit.granted:
            run.on_begin = functools.partial(self._keys.begun, run)
            return self._verdict(run) if run.abort is not None or not run.delivery.valid else None
        if not run.unit.in_place:
            return Held(permit.since)
        await self._unclaim(run)
        self._settler.on_due(self.clock.now())  # where all keys together are limited, only the keeper lets it go
        return NotYet(permit.retry_in)

    async def _rate(self, run: Run) -> Outcome | Denied | None:
        """Take a start of the queue's rate. Denied: back in line until the window opens."""
        server = run.unit.server
        rate = server.record.rate_limit
        assert rate is not None and run.task is not None
        run.task.prepare()  # a task's first validation takes milliseconds, pydantic's own first one a hundred
        grant = await server.gate.take(server.record.name, rate, self._spawn)
        if grant is not None:
            run.on_begin = functools.partial(_both, run.on_begin, functools.partial(server.gate.begun, grant))
            return self._verdict(run) if run.abort is not None or not run.delivery.valid else None
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
        context.waits = RunWaits(run, self._places, loop)

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
            self._keys.ended(run)
            if run.abandoned and run.unit.ordered:
                self.abandoned.add(run.unit.server)  # its thread runs on: nobody may have the next one yet
            elif result is Settled.FENCED:
                run.look_anew()
            else:
                run.acknowledge()
            self._let_go(run)

        run.unit.records = True
        self._settler.settle(run, outcome, settled)

    def _unrecorded(self, run: Run) -> bool:
        """A success that nobody asked to be recorded, of a run that has no row and whose delivery still counts."""
        task = run.task
        unasked = task is not None and not task.definition.result and not run.shown and run.delivery.valid
        return unasked and run.unit.spares_records()

    async def _hold_for_callbacks(self, run: Run) -> None:
        """Keep its place, for which the next one waits, until the messages that tell of its answer are done too."""
        pause = CALLBACKS_FIRST_LOOK
        while await self._insist(lambda: self._store.unfinished_callbacks(run.message.id)):
            if not await self._hold(run, pause):
                return self._return(run)
            pause = min(pause * 2, CALLBACKS_LOOK_MOST)
        run.acknowledge()
        self._let_go(run)

    async def _settle_in_place(self, run: Run, outcome: Outcome) -> bool:
        """Record its outcome, or that it waits here. False: a newer claim, or an outcome, stands, or it cannot be
        stored."""
        recorded: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self._settler.settle(run, outcome, recorded.set_result)
        settled = await recorded
        self._keys.ended(run)
        match settled:
            case Settled.APPLIED:
                return True
            case Settled.FENCED:
                run.look_anew()
            case Settled.REFUSED:
                run.acknowledge()
        return False

    async def _hold(self, run: Run, seconds: float) -> bool:
        """Wait with the head in hand. False: it is to be let go (a stop, a hand-over, a lost channel)."""
        run.context = None
        if not run.unit.wanted or (run.abort is not None and run.abort is not Abort.CANCELLED):
            return False
        if run.called:
            run.called = False
            return run.delivery.valid
        run.wake = asyncio.Event()
        longest = self._longest_hold()
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
        return (run.abort is Abort.CANCELLED or run.called) and run.delivery.valid

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
        if run.unit.ordered and run.unit.wanted:
            for delivery in [run.deliveries[0], *(copy for copy, unit in run.copies if unit is run.unit)]:
                if delivery.valid:
                    self._look_anew(delivery, run.unit, run)

    def _let_go(self, run: Run) -> None:
        self.forget(run)
        run.context = run.job = None  # they know the run: without this the garbage collector had to find each of them
        run.unit.finished(run)

    def _progress(self, run: Run, done: int, total: int) -> None:
        run.progress = (done, total)

    async def show_long_runs(self, now: float) -> None:
        """Give runs that take long their row, and store their progress."""
        for run in list(self.runs.values()):
            if run.began is None or run.started_at is None or run.stop is None:
                continue
            if not run.shown and now - run.began > SHOW_AFTER:
                run.shown = True
                await self._show(run)
            if run.progress is not None and now - run.progress_at >= 1.0:
                progress, run.progress, run.progress_at = run.progress, None, now
                await self._try(self._store.progress(run.message.id, run.epoch, *progress))

    async def _show(self, run: Run) -> None:
        assert run.started_at is not None
        showing = self._store.running(
            run.message, worker=self._id, epoch=run.epoch, attempt=run.attempt, started_at=run.started_at
        )
        if await self._try(showing) is False:
            logger.warning("message %s runs elsewhere too, with a newer claim: this run is stopped", run.message.id)
            run.abort_with(Abort.LOST)

    async def _try(self, work: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await work
        except TaskqError as error:
            logger.warning("%s", error)
            return None


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing is left to do: the message has its outcome, or a later copy of it is under way."""


@dataclass(frozen=True, slots=True)
class Told:
    """It has its outcome, and may have callbacks under way, for which its queue waits."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """It may not start for so many seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Denied:
    """Its queue's rate lets nothing start now."""


def _calls_back(message: Message) -> bool:
    """Whether messages follow from its answers. One whose payload is damaged has none."""
    try:
        request = request_of(message)
    except InvalidMessage:
        return False
    return request is not None and (request.callback is not None or request.failure_callback is not None)


def _both(one: Callable[[], None] | None, other: Callable[[], None]) -> None:
    if one is not None:
        one()
    other()


async def _raise(error: BaseException) -> None:
    raise error
