"""Processes that can die at any step, in one event loop.

A `Process` is an app of its own with a connection to the broker and one to the store. Everything it starts is known
by its context. `die` does what SIGKILL does: the broker takes back what it held, nothing that it does later has an
effect, and its coroutines end. Each call of broker and store, and each acknowledgement, is a step before it and a
step after it: a process may be told to die at the n-th.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from taskq import TaskQ
from taskq.broker.base import BrokerQueue, Delivery, OnBody, OnDelivery, OnLoss, OnOutcome, Outgoing
from taskq.broker.memory import MemoryBroker, MemorySubscription
from taskq.clock import Clock
from taskq.errors import PublishUnconfirmed, StoreUnavailable, TaskqError
from taskq.store.adapter import SqlStore
from taskq.store.lines import Line, make_engine

T = TypeVar("T")
process_of: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)

QUICK = (0.0, 0.0, 0.001, 0.004)  # seconds that one way to the store or broker takes


class Died(asyncio.CancelledError):
    """Whoever asks on behalf of a dead process is ended as well."""


class Process:
    """See the module.

    alive     bool
    slow      float, seconds that each way to the store takes on top
    fuse      int | None: it dies at the step that brings this to nothing
    store_away, answers_lost   int: so many of its next calls of the store fail before, or after, they had their effect
    confirms_lost              int: so many of its next publishes arrive without a confirm
    tasks     its coroutines under way
    """

    def __init__(self, name: str, *, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self.name = name
        self.alive = True
        self.slow = 0.0
        self.fuse: int | None = None
        self.store_away = self.answers_lost = self.confirms_lost = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_death: Callable[[Process], None] = lambda process: None
        self.broker: MortalBroker | None = None
        self._loop = loop
        self._chance = chance
        self._context = contextvars.copy_context()
        self._context.run(process_of.set, self)

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.alive else ', dead'}>"

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as this process."""
        return self.call(self._loop.create_task, work)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function as this process."""
        return self._context.copy().run(function, *args)

    def hearing(self, function: Callable[..., Any]) -> Callable[..., None]:
        """What the broker is to call when something comes for this process, whoever sent it."""

        def hear(*args: Any) -> None:
            if self.alive:
                self.call(function, *args)

        return hear

    def heal(self) -> None:
        """Let it live on without faults."""
        self.slow, self.fuse = 0.0, None
        self.store_away = self.answers_lost = self.confirms_lost = 0

    # -- steps ------------------------------------------------------------------------------

    def reach(self) -> None:
        """A step: it may be the last."""
        if self.alive and self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                self.die()

    def step(self) -> None:
        """The same, for a coroutine, which ends with its process."""
        self.reach()
        if not self.alive:
            raise Died

    async def way(self) -> None:
        """The time to the store, or back."""
        await asyncio.sleep(self._chance.choice(QUICK) + self.slow)
        if not self.alive:
            raise Died

    def spend(self, budget: str) -> bool:
        """Whether this call is one of those that are to fail."""
        left = getattr(self, budget)
        setattr(self, budget, max(left - 1, 0))
        return bool(left)

    # -- death ------------------------------------------------------------------------------

    def die(self) -> None:
        """At once, wherever it stands."""
        if not self.alive:
            return
        self.alive = False
        if self.broker is not None:
            self.broker.vanish()
        self.on_death(self)
        for task in list(self.tasks):
            task.cancel()

    async def gone(self) -> None:
        """After `die`: return once its last coroutine has ended."""
        for _ in range(100):
            if not self.tasks:
                return
            for task in list(self.tasks):
                task.cancel()
            await asyncio.sleep(0)
        raise AssertionError(f"{self!r} goes on: {self.tasks}")


def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Every task belongs to the process in whose context it was made."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    process = process_of.get()
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
        if not process.alive:
            task.cancel()
    return task


class ProcessApp(TaskQ):
    """The app as one process has it."""

    def __init__(self, process: Process, shared: SqlStore, **settings: Any) -> None:
        self._process = process
        self._shared_store = shared
        super().__init__(**settings)
        self.rng = random.Random(7)

    def make_broker(self) -> MortalBroker:
        broker = MortalBroker(
            self._process,
            self.settings.broker,
            prefix=self.settings.prefix,
            publish_timeout=self.settings.publish_timeout,
            clock=self.clock,
        )
        self._process.broker = broker
        return broker

    def make_store(self) -> Any:
        return MortalStore(self._process, self._shared_store)


# -- the broker ------------------------------------------------------------------------------------


class MortalBroker(MemoryBroker):
    """One process's connection to the broker in memory."""

    def __init__(self, process: Process, url: str, *, prefix: str, publish_timeout: float, clock: Clock) -> None:
        super().__init__(url, prefix=prefix, publish_timeout=publish_timeout, clock=clock)
        self._process = process

    def vanish(self) -> None:
        """The broker takes back all that this process held; nothing that it does later arrives."""
        with self.server.lock:
            for subscription in list(self._subscriptions):
                subscription._closed = True
                subscription.drop()
            self._subscriptions.clear()
            self._drop_mailboxes()
            self._open = False

    def in_hand(self) -> set[str]:
        """Ids of what the broker has delivered here and still keeps."""
        channels = [subscription._channel for subscription in self._subscriptions if subscription._channel is not None]
        return {one.message_id for channel in channels for one in channel.unacknowledged.values() if one.message_id}

    async def publish(self, outgoing: Outgoing) -> None:
        self._process.step()
        await super().publish(outgoing)
        self._process.step()
        if self._process.spend("confirms_lost"):
            await asyncio.sleep(self._publish_timeout)
            raise PublishUnconfirmed("the confirm was lost")

    def offer(self, outgoing: Outgoing, on_outcome: OnOutcome) -> bool:
        return False  # so that every publish takes its steps above

    async def publish_many(self, outgoing: Iterable[Outgoing]) -> list[TaskqError | None]:
        results: list[TaskqError | None] = []
        for one in outgoing:
            self._process.step()
            results += await super().publish_many([one])
        self._process.step()
        if results and self._process.spend("confirms_lost"):
            await asyncio.sleep(self._publish_timeout)
            results = [error or PublishUnconfirmed("the confirm was lost") for error in results]
        return results

    async def subscribe(
        self,
        queue: BrokerQueue,
        on_delivery: OnDelivery,
        *,
        prefetch: int,
        on_loss: OnLoss | None = None,
        redeclare: bool = True,
    ) -> MemorySubscription:
        process = self._process
        delivered = process.hearing(lambda delivery: on_delivery(MortalDelivery(process, delivery)))
        lost = None if on_loss is None else process.hearing(on_loss)
        return await super().subscribe(queue, delivered, prefetch=prefetch, on_loss=lost, redeclare=redeclare)

    async def listen(self, on_body: OnBody, on_restored: Callable[[], None]) -> None:
        await super().listen(self._process.hearing(on_body), self._process.hearing(on_restored))

    async def reply_queue(self, on_body: OnBody, on_restored: Callable[[str], None]) -> str:
        return await super().reply_queue(self._process.hearing(on_body), self._process.hearing(on_restored))


class MortalDelivery:
    """A delivery in the hands of a process; both verbs are steps."""

    def __init__(self, process: Process, delivery: Delivery) -> None:
        self._process = process
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def acknowledge(self) -> None:
        self._process.reach()
        self._delivery.acknowledge()
        self._process.reach()

    def give_back(self) -> None:
        self._process.reach()
        self._delivery.give_back()
        self._process.reach()


# -- the store -------------------------------------------------------------------------------------


class _AtOnce:
    """Does the store's jobs where they are handed over, instead of on threads."""

    def __init__(self, line: Line) -> None:
        self.line = line

    async def call(self, job: Callable[[Line], T], *, within: float) -> T:
        return job(self.line)

    def stop(self) -> None:
        self.line.close()

    async def stopped(self, *, within: float) -> bool:
        return True


class SharedStore(SqlStore):
    """SQLite in memory, in the caller's thread: what happens in it depends on nothing but its calls."""

    def _start(self) -> None:
        self._writers = self._readers = _AtOnce(Line(make_engine(self._place), self._place, self._clock))  # type: ignore[assignment]

    @property
    def line(self) -> Line:
        return self._writers.line  # type: ignore[union-attr]

    def use(self, clock: Clock) -> None:
        """From now on this is the store's clock."""
        self._clock = self.line._clock = clock


class MortalStore:
    """One process's connection to the store: each verb has its way there, its effect, and its way back."""

    def __init__(self, process: Process, store: SqlStore) -> None:
        self._process = process
        self._store = store

    @property
    def id(self) -> str:
        return self._store.id

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        verb = getattr(self._store, name)
        process = self._process

        async def call(*args: Any, **kwargs: Any) -> Any:
            process.step()
            await process.way()
            if process.spend("store_away"):
                raise StoreUnavailable("the store is away")
            result = await verb(*args, **kwargs)
            process.step()
            await process.way()
            if process.spend("answers_lost"):
                raise StoreUnavailable("the store's answer was lost")
            return result

        return call
