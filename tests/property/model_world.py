"""The world of the model: processes around one broker and one store, and all that their tasks have seen.

Nothing is mocked: workers, keepers, senders, the memory broker and SQLite are the real ones. A violation is noted when
it happens (`broken`), and the state machine fails on it after the step.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from taskq import Queue, RateLimit, Reject, RetryAfter, Snooze, TaskQ
from taskq.broker.memory import forget
from taskq.client import control
from taskq.errors import BrokerUnavailable, Duplicate, EnqueueFailed, StoreUnavailable, TaskqError
from taskq.outcome import Status
from taskq.queue import lane_of
from taskq.retry import Retry
from taskq.serialization import MSGPACK, codec_for
from taskq.store import open_store
from taskq.store.base import CancelEffect
from taskq.store.tables import metadata
from taskq.task import Prepared
from taskq.worker.worker import Worker
from tests.property.model_process import Process, ProcessApp, SharedStore, process_of, task_factory
from tests.property.model_time import SimulatedClock, SimulatedLoop

T = TypeVar("T")

OPEN = Queue("open")
FIFO = Queue("fifo", parallelism=1)
LANES = Queue("lanes", parallelism=1, partitions=2)
PAIR = Queue("pair", parallelism=2)
PACED = Queue("paced", rate_limit=RateLimit(2, per=5))
QUEUES = {queue.name: queue for queue in (OPEN, FIFO, LANES, PAIR, PACED)}
ORDERED = (FIFO.name, LANES.name)

TOLD = -1.0  # seconds of a run that lasts until it is told to end
RETRY_DELAY = 1.0
PAUSE_COUNTS = 1.0  # seconds after which nothing starts on a paused queue
LIMIT_COUNTS = 1.0  # seconds after which a lower limit holds
PATIENCE = 900.0  # seconds in which everything must have ended once there are no more faults
FINAL = tuple(status.value for status in Status if status.final)


@dataclass(eq=False)
class Sent:
    """A message, as its sender and its runs know it.

    accepted  bool: the sender was told that it is safe; else nobody knows
    script    (seconds, ending) of each run that is not cut off; after the last it succeeds
    steps     int, runs that ended by themselves
    runs      serial numbers, in the order of their beginning
    deaths    int: processes that died
    stopped   bool: it must never begin (again): cancelled, or replaced, before it had begun
    asked     bool: somebody wanted it cancelled
    outcome   status and result, once recorded
    """

    id: str
    number: int
    queue: str
    line: str
    at: float
    script: Sequence[tuple[float, str]]
    delay: float | None = None
    dedup_id: str | None = None
    expires: float | None = None
    accepted: bool = False
    steps: int = 0
    runs: list[int] = field(default_factory=list)
    deaths: int = 0
    stopped: bool = False
    asked: bool = False
    outcome: tuple[str, Any] | None = None
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def __repr__(self) -> str:
        return f"<{self.id} on {self.line}>"


@dataclass(eq=False)
class Seen:
    """A run while it executes.

    excepted  bool: it began under an earlier limit of its queue, which a new one cannot take back
    """

    serial: int
    sent: Sent
    process: Process
    excepted: bool = False


@dataclass(eq=False)
class WorkerProcess:
    """A worker in a process of its own."""

    process: Process
    worker: Worker
    running: asyncio.Task[None]


class Stage:
    """What every world uses again: the app with its tasks, and the store with its schema."""

    def __init__(self) -> None:
        self.world: World
        self.app = TaskQ(broker="memory://model", store="sqlite://", prefix="model")
        for queue in QUEUES.values():
            self.app.declare_queue(queue)

        @self.app.task(name="work", retry=Retry(max_retries=2, delay=RETRY_DELAY))
        async def work(number: int) -> int:
            return await self.world.perform(number)

        self.work = work
        store = open_store("sqlite://")
        self.store = SharedStore(store._place)  # type: ignore[attr-defined]
        loop = SimulatedLoop()
        self.store._clock = SimulatedClock(loop)
        loop.run_until_complete(self.store.open())
        loop.close()
        self.sql(
            "CREATE TABLE model_outcomes (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, status TEXT, result BLOB)"
        )
        final = ", ".join(f"'{status}'" for status in FINAL)
        for when in ("INSERT", "UPDATE"):
            self.sql(
                f"CREATE TRIGGER note_{when} AFTER {when} ON taskq_messages WHEN NEW.status IN ({final}) BEGIN "
                "INSERT INTO model_outcomes (id, status, result) VALUES (NEW.id, NEW.status, NEW.result); END"
            )

    def sql(self, statement: str) -> list[Any]:
        """Look at, or change, the store itself."""

        def verb(tx: Any) -> list[Any]:
            result = tx.connection.exec_driver_sql(statement)
            return list(result.all()) if result.returns_rows else []

        return self.store.line.run(verb)

    def empty(self) -> None:
        """Nothing of the last world is left."""
        for table in reversed(metadata.sorted_tables):
            if table.name not in ("taskq_store", "alembic_version"):
                self.sql(f"DELETE FROM {table.name}")
        self.sql("DELETE FROM model_outcomes")


class World:
    """See the module."""

    def __init__(self, stage: Stage, seed: int) -> None:
        stage.world = self
        stage.empty()
        forget("model")
        self.stage = stage
        self.loop = SimulatedLoop()
        self.loop.set_task_factory(task_factory)
        self.loop.set_exception_handler(self._unhandled)
        self.clock = SimulatedClock(self.loop)
        stage.store.use(self.clock)
        stage.app.clock = self.clock
        self.chance = random.Random(seed)
        self.broken: list[str] = []
        self.sent: dict[str, Sent] = {}
        self.executing: set[Seen] = set()
        self.workers: list[WorkerProcess] = []
        self.paused: dict[str, float] = {}
        self.cap = PAIR.parallelism or 0
        self.cap_changed = 0.0  # when it was lowered
        self.paced: list[float] = []
        self.trouble = 0.0  # until when a fault may make somebody late
        self._serials = itertools.count(1)
        self._numbers = itertools.count(1)
        self._outcomes_read = 0
        self._names = itertools.count(1)
        self.operator, self.operator_app = self._process("operator")
        self.sender, self.sender_app = self._process("sender")
        self.do(self._declare())

    async def _declare(self) -> None:
        store = await self.operator_app.client().store()
        for queue in QUEUES.values():
            await store.ensure_queue(queue)

    def _process(self, kind: str) -> tuple[Process, ProcessApp]:
        process = Process(f"{kind}-{next(self._names)}", loop=self.loop, chance=self.chance)
        process.on_death = self._died
        app = ProcessApp(
            process, self.stage.store, broker="memory://model", store="sqlite://", prefix="model", clock=self.clock
        )
        app.tasks, app.queues = self.stage.app.tasks, self.stage.app.queues
        return process, app

    def _died(self, process: Process) -> None:
        for seen in [seen for seen in self.executing if seen.process is process]:
            self.executing.discard(seen)
        for sent in self.sent.values():
            sent.deaths += 1

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        handle = context.get("handle")
        process = handle._context.get(process_of) if handle is not None else None
        if process is None or process.alive:
            self.broken.append(f"an error nobody answers: {context.get('message')}: {context.get('exception')!r}")

    @property
    def now(self) -> float:
        """Seconds of simulated time."""
        return self.loop.seconds

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the operator's to its end."""
        return self.loop.run_until_complete(self.operator.start(work))

    # -- what a task sees -------------------------------------------------------------------

    async def perform(self, number: int) -> int:
        """The body of the task."""
        process = process_of.get()
        assert process is not None
        sent = self.sent[f"m{number}"]
        seen = Seen(next(self._serials), sent, process)
        self._began(seen)
        seconds, ending = sent.script[sent.steps] if sent.steps < len(sent.script) else (0.0, "ok")
        try:
            if seconds == TOLD:
                await sent.told.wait()
            else:
                await asyncio.sleep(seconds)
        finally:
            self.executing.discard(seen)
        sent.steps += 1
        match ending:
            case "fail":
                raise ValueError("this attempt fails")
            case "snooze":
                raise Snooze(2.0)
            case "later":
                raise RetryAfter(3.0)
            case "reject":
                raise Reject("no")
        return seen.serial

    def _began(self, seen: Seen) -> None:
        sent = seen.sent
        self.note_trouble()
        self.read_outcomes()
        sent.runs.append(seen.serial)
        self.executing.add(seen)
        note = self.broken.append
        if sent.outcome is not None:
            note(f"{sent} begins after its outcome {sent.outcome} was recorded")
        if sent.stopped:
            note(f"{sent} begins, and had been cancelled before it began")
        if sent.delay is not None and self.now < sent.at + sent.delay - 0.001:
            note(f"{sent} begins {sent.at + sent.delay - self.now} s early")
        if sent.expires is not None and self.now > sent.at + sent.expires + 0.001 and len(sent.runs) == 1:
            note(f"{sent} begins {self.now - sent.at - sent.expires} s after it had expired")
        if sent.queue in self.paused and self.now - max(self.paused[sent.queue], self.trouble) > PAUSE_COUNTS:
            note(f"{sent} begins {self.now - self.paused[sent.queue]} s after its queue was paused")
        if sent.queue in ORDERED:
            self._check_order(sent)
        elif sent.queue == PAIR.name:
            self._check_cap(seen)
        elif sent.queue == PACED.name:
            self._check_pace()

    def _check_order(self, sent: Sent) -> None:
        beside = [seen.sent for seen in self.executing if seen.sent.line == sent.line]
        if len(beside) > 1:
            self.broken.append(f"{len(beside)} run at once on {sent.line}: {beside}")
        if sent.delay is None and sent.accepted:
            before = [
                one
                for one in self.sent.values()
                if one.line == sent.line and one.number < sent.number and one.accepted and one.delay is None
            ]
            early = [one for one in before if one.outcome is None]
            if early:
                self.broken.append(f"{sent} begins before {early} ended")

    def _check_cap(self, began: Seen) -> None:
        began.excepted = self.now - max(self.cap_changed, self.trouble) < LIMIT_COUNTS
        running = sum(seen.sent.queue == PAIR.name and not seen.excepted for seen in self.executing)
        if running > self.cap:
            self.broken.append(f"{running} run at once on {PAIR.name}, {self.cap} may")

    def _check_pace(self) -> None:
        assert PACED.rate_limit is not None
        limit, per = PACED.rate_limit.limit, PACED.rate_limit.per
        self.paced.append(self.now)
        if len(self.paced) > limit and self.now - max(self.paced[-1 - limit], self.trouble) < per - 0.04:
            if self.paced[-1 - limit] > self.trouble:
                self.broken.append(f"starts on {PACED.name} come too fast: {self.paced[-1 - limit :]}")

    # -- sending ----------------------------------------------------------------------------

    def prepare(
        self,
        queue: str,
        *,
        script: Sequence[tuple[float, str]],
        delay: float | None = None,
        expires: float | None = None,
        dedup: tuple[str, str] | None = None,
    ) -> tuple[Sent, Prepared[Any]]:
        """A message that nobody has sent yet."""
        number = next(self._numbers)
        options: dict[str, Any] = {"id": f"m{number}", "queue": queue}
        line = queue
        if queue == LANES.name:
            options["key"] = f"key-{number % 3}"
            line = f"{queue}.{lane_of(options['key'], LANES.partitions or 1)}"
        if delay is not None:
            options["delay"] = delay
        if expires is not None:
            options["expires"] = expires
        if dedup is not None:
            options["dedup_id"], options["on_duplicate"] = dedup
        sent = Sent(f"m{number}", number, queue, line, self.now, script, delay, dedup and dedup[0], expires)
        return sent, self.stage.work.options(**options).message(number)

    def send(self, batch: Sequence[tuple[Sent, Prepared[Any]]], *, many: bool) -> None:
        """Send one or many; what becomes of each is noted."""
        for sent, _ in batch:
            self.sent[sent.id] = sent
        began = self.now
        holders = {
            one.id for one in self.sent.values() if one.accepted and one.outcome is None and one.dedup_id is not None
        }
        work = self._send_many(batch) if many else self._send_one(*batch[0], holders)
        task = self.sender.start(work)
        self.loop.run_until_complete(asyncio.wait([task]))
        if not self.sender.alive:
            self.loop.run_until_complete(self.sender.gone())
            self.sender, self.sender_app = self._process("sender")
        elif task.exception() is not None:
            self.broken.append(f"enqueue raised {task.exception()!r}")
        bound = 5.0 * (1 + len(batch) * many) + 0.1
        if self.now - began > bound:
            self.broken.append(f"an enqueue took {self.now - began} s")

    async def _send_one(self, sent: Sent, prepared: Prepared[Any], holders: set[str]) -> None:
        replacing = prepared.dedup is not None and prepared.dedup.on_duplicate == "replace"
        if replacing:
            for other in self._rivals(sent):
                other.asked = True
        try:
            handle = await self.sender_app.send_async(prepared)
        except Duplicate as duplicate:
            del self.sent[sent.id]
            self._check_holder(sent, duplicate.message_id, holders)
        except TaskqError:
            return
        else:
            if handle.id != sent.id:
                del self.sent[sent.id]
                self._check_holder(sent, handle.id, holders)
            else:
                if replacing:
                    await _turns()
                self._accepted(sent, replacing=replacing)

    def _check_holder(self, sent: Sent, holder_id: str, holders: set[str]) -> None:
        """A duplicate is refused for the sake of a message that has not ended."""
        holder = self.sent.get(holder_id)
        if holder is None or holder.dedup_id != sent.dedup_id or holder.queue != sent.queue:
            self.broken.append(f"{sent} is called a duplicate of {holder_id}, which is none")
        elif holder.accepted and holder.id not in holders:
            self.broken.append(f"{sent} is called a duplicate of {holder}, which had ended")

    def _accepted(self, sent: Sent, *, replacing: bool = False) -> None:
        self.read_outcomes()
        sent.accepted = True
        for other in self._rivals(sent):
            if replacing:
                other.stopped = not other.runs
            elif other.accepted and not other.asked:
                self.broken.append(f"{sent} was accepted beside {other}, which has the same dedup_id")

    def _rivals(self, sent: Sent) -> list[Sent]:
        """Unfinished messages with the same deduplication id."""
        key = (sent.queue, sent.dedup_id)
        return [
            other
            for other in self.sent.values()
            if sent.dedup_id is not None
            and other is not sent
            and (other.queue, other.dedup_id) == key
            and other.outcome is None
        ]

    async def _send_many(self, batch: Sequence[tuple[Sent, Prepared[Any]]]) -> None:
        mine = {sent.id: sent for sent, _ in batch}
        try:
            confirmed = await self.sender_app.enqueue_many_async([prepared for _, prepared in batch])
        except EnqueueFailed as failed:
            confirmed = failed.confirmed
        except TaskqError:
            return
        for handle in confirmed:
            self._accepted(mine[handle.id])

    # -- operating --------------------------------------------------------------------------

    def cancel(self, sent: Sent) -> None:
        """Ask for a message to be cancelled."""
        sent.asked = True

        async def cancel() -> None:
            effect = await self.operator_app.client().cancel(sent.id)
            await _turns()
            self.read_outcomes()
            if effect is not CancelEffect.FINISHED and not sent.runs:
                sent.stopped = True

        self.do(cancel())

    def set_queue(self, name: str, **changes: Any) -> None:
        """Change a queue as an operator does."""

        async def change() -> None:
            store = await self.operator_app.client().store()
            await store.set_queue(name, **changes)
            (await self.operator_app.client().broker()).broadcast(control({"changed": name}))

        self.do(change())
        if "parallelism" in changes:
            if changes["parallelism"] < self.cap:
                self.cap_changed = self.now
                for seen in self.executing:
                    seen.excepted |= seen.sent.queue == name
            self.cap = changes["parallelism"]
        if changes.get("paused"):
            self.paused.setdefault(name, self.now)
        elif "paused" in changes:
            self.paused.pop(name, None)

    # -- workers ----------------------------------------------------------------------------

    def start_worker(self, *, keeper: bool) -> None:
        """One more worker, in a process of its own."""
        process, app = self._process("worker")
        worker = Worker(app, concurrency=4, grace=0.5, keeper=keeper)
        running = process.start(worker.run())
        self.workers.append(WorkerProcess(process, worker, running))

    def look_at_workers(self) -> None:
        """Bury the dead, and note who ended without being told."""
        for one in list(self.workers):
            if not one.process.alive:
                self.loop.run_until_complete(one.process.gone())
                self.workers.remove(one)
            elif one.running.done():
                self._ended(one)

    def _ended(self, one: WorkerProcess) -> None:
        """A worker may end by itself only at its start, and only because it cannot reach what it needs."""
        error = one.running.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if one.worker.started.is_set() or not isinstance(error, BrokerUnavailable | StoreUnavailable):
            self.broken.append(f"{one.process} ended: {error!r}")
        one.process.die()

    def stop_worker(self, one: WorkerProcess) -> None:
        """Stop a worker as SIGTERM does, and wait for its end."""
        one.worker.stop()
        self.loop.run_until_complete(asyncio.wait([one.running], timeout=60))
        if one.process.alive:
            if not one.running.done():
                self.broken.append(f"{one.process} did not stop")
            elif one.running.exception() is not None:
                self._ended(one)
            one.process.die()
        self.look_at_workers()

    # -- looking ----------------------------------------------------------------------------

    def note_trouble(self) -> None:
        """Whoever hears late from the store is late in obeying it."""
        for process in (one.process for one in self.workers):
            if process.slow or process.store_away or process.answers_lost:
                self.trouble = max(self.trouble, self.now + 2 * process.slow)  # a call under way takes as long

    def read_outcomes(self) -> None:
        """Hear of the outcomes that were recorded since the last time."""
        rows = self.stage.sql(
            "SELECT number, id, status, result FROM model_outcomes"
            f" WHERE number > {self._outcomes_read} ORDER BY number"
        )
        for number, message_id, status, result in rows:
            self._outcomes_read = number
            sent = self.sent.get(message_id)
            if sent is None:
                self.broken.append(f"{message_id} has an outcome, and was never sent")
                continue
            if sent.outcome is not None:
                self.broken.append(f"{sent} has a second outcome: {status} after {sent.outcome}")
            value = codec_for(MSGPACK).decode(result) if result is not None else None
            sent.outcome = (status, value)
            if status == Status.SUCCEEDED.value and (not sent.runs or value != sent.runs[-1]):
                self.broken.append(f"{sent}: run {value} recorded its success, its runs are {sent.runs}")
            if status == Status.CANCELLED.value and not sent.asked:
                self.broken.append(f"{sent} was cancelled, and nobody asked for it")

    def buried(self) -> set[str]:
        """Ids of the messages in the archive of dead letters."""
        return {row[0] for row in self.stage.sql("SELECT message_id FROM taskq_dead_letters")}

    def under_way(self) -> set[str]:
        """Ids of all messages that something durable holds: an outbox row, the waiting room, a queue of the broker."""
        rows = self.stage.sql("SELECT message_id FROM taskq_outbox UNION SELECT id FROM taskq_waiting")
        ids = {row[0] for row in rows}
        assert self.operator.broker is not None
        for queue in self.operator.broker.server.queues.values():
            ids.update(stored.message_id for stored in queue.ready if stored.message_id)
        for one in self.workers:
            if one.process.broker is not None:
                ids.update(one.process.broker.in_hand())
        return ids

    def run_for(self, seconds: float) -> None:
        """Let everybody go on for so long."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def turn(self, turns: int) -> None:
        """Let everybody go on for a few turns of the loop."""

        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def until(self, done: Callable[[], bool]) -> bool:
        """Let time pass until it is so; whether it is, within PATIENCE."""
        deadline = self.now + PATIENCE
        while not done():
            if self.now > deadline:
                return False
            self.run_for(1.0)
        return True

    def close(self) -> None:
        """End every process, and the loop."""
        for process in [*(one.process for one in self.workers), self.sender, self.operator]:
            process.die()
            self.loop.run_until_complete(process.gone())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


async def _turns() -> None:
    """What was told to all has been heard: it takes a turn of the loop, and a start that is under way a few."""
    for _ in range(5):
        await asyncio.sleep(0)
