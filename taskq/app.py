"""The app: a registry of tasks and queues, and the way to send, wait, and cancel, from sync and async code.

It knows the ports, never an adapter. Async callers use a client in their own event loop; sync
callers share one in a loop on a thread of the app's (inside a worker: the worker's loop).
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import random
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload
from weakref import WeakKeyDictionary, WeakMethod

from taskq.broker import open_broker
from taskq.broker.base import Broker
from taskq.client import Client
from taskq.clock import Clock, SystemClock
from taskq.context import current_or_none
from taskq.errors import (
    EnqueueFailed,
    EnqueueInsideLoop,
    InvalidSchedule,
    InvalidSetting,
    PayloadTooLarge,
    QueueMissing,
    UnknownTask,
)
from taskq.handle import Ending, Handle, Mailbox
from taskq.message import Message
from taskq.outcome import Status
from taskq.queue import DEFAULT_QUEUE, Queue, check_queue_name, lane_of
from taskq.retry import Retry
from taskq.store import check_store, open_store
from taskq.task import Definition, Pool, Prepared, Task, check_task_name, pool_of

if TYPE_CHECKING:
    from taskq.schedule import Schedule, ScheduleOptions
    from taskq.schedules import Schedules
    from taskq.settings import Settings
    from taskq.store.base import MessageRecord, Store

P = ParamSpec("P")
R = TypeVar("R")

CLOSE_AT_EXIT = 0.5  # seconds: a script without close() must end within one


class TaskQ:
    """An app.

    Args:
        broker: URL, `amqp://user:password@host:port/vhost` (several hosts separated by commas) or `memory://`.
        store: URL, `sqlite:///file.db` or `postgresql://user:password@host/database`.
        clock: where time comes from; for tests.
        settings: any other of `taskq.settings.Settings`, by keyword.

    Keywords win over `TASKQ_*` variables, those over the configuration file.
    """

    def __init__(
        self, *, broker: str | None = None, store: str | None = None, clock: Clock | None = None, **settings: Any
    ) -> None:
        from taskq.settings import load_settings  # here: pydantic takes longer to import than the rest together

        given = {"broker": broker, "store": store} | settings
        self.settings: Settings = load_settings(**{name: value for name, value in given.items() if value is not None})
        self.clock: Clock = clock or SystemClock()
        self.rng = random.Random()
        self.tasks: dict[str, Task[..., Any]] = {}
        self.queues: dict[str, Queue] = {}
        self.scheduled: dict[str, tuple[Schedule, Queue]] = {}
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Client] = WeakKeyDictionary()
        self._portal: Portal | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self.make_broker()  # a bad URL is an error here, not at the first enqueue
        check_store(self.settings.store)

    def __repr__(self) -> str:
        return f"<TaskQ {self.settings.name!r}, {len(self.tasks)} tasks>"

    # -- declaring --------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        queue: Queue | str = ...,
        retry: Retry | int | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        pool: Pool | None = None,
        result: bool = True,
        cron: str | None = None,
        every: float | None = None,
        timezone: str | None = None,
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: Queue | str = DEFAULT_QUEUE,
        retry: Retry | int | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        pool: Pool | None = None,
        result: bool = True,
        cron: str | None = None,
        every: float | None = None,
        timezone: str | None = None,
    ) -> Any:
        """Declare a function as a task, bare or with options.

        Args:
            name: under which messages find it; by default `module.qualname`, where the module of a
                script is named by its file, as a worker imports it.
            queue: a Queue, or the name of one (open unless it is declared).
            retry: a Retry, or a number of retries with the default backoff; None: 3 retries.
            timeout: seconds of one attempt; then it is stopped and counts as failed.
            soft_timeout: seconds after which `SoftTimeout` is raised inside the task.
            pool: "process" runs it in a process of its own; an `async def` runs on the loop otherwise, a
                plain `def` on a thread.
            result: False records failures only, and nobody can wait for it.
            cron, every, timezone: send it on a schedule of the task's name, without arguments; for more,
                `app.schedule`.
        """

        def declare(function: Callable[..., Any]) -> Task[..., Any]:
            if isinstance(function, Task):
                raise InvalidSetting(f"{function!r} is a task already")
            definition = Definition(
                name=check_task_name(name or f"{_module_of(function)}.{function.__qualname__}"),
                queue=self.declare_queue(queue),
                retry=Retry(max_retries=retry) if isinstance(retry, int) else retry or Retry(),
                timeout=_limit("timeout", timeout),
                soft_timeout=_limit("soft_timeout", soft_timeout),
                pool=pool_of(function, pool),
                result=result,
            )
            if definition.name in self.tasks and not _same_source(self.tasks[definition.name].function, function):
                raise InvalidSetting(f"another task is already named {definition.name!r}: give one of them name=…")
            task = Task(function, definition=definition, sender=self)
            self.tasks[definition.name] = task
            if cron is not None or every is not None or timezone is not None:
                self.schedule(definition.name, task, cron=cron, every=every, timezone=timezone)
            return task

        return declare if function is None else declare(function)

    def schedule(self, id: str, task: Task[..., Any] | str, **options: Unpack[ScheduleOptions]) -> Schedule:
        """Declare that a task is sent on a schedule; a beat that starts brings the store up to it.

        Args:
            id: its name among the app's schedules.
            task: the task, with `task.options(…)` if it is to have any; or its name; or an http(s) URL.
            options: one of `cron`, `every` and `at`, and more; see `ScheduleOptions`.

        Raises:
            InvalidSchedule: naming what cannot be: the cron's field, the zone, the interval, the id.
            InvalidArguments, UnknownTask: what would be sent cannot be.
        """
        schedule, queue = self.plan_schedule(id, task, **options)
        known = self.scheduled.get(id)
        if known is not None and known[0].to_row("") != schedule.to_row(""):
            raise InvalidSchedule(f"schedule {id!r} is declared twice, differently")
        self.scheduled[id] = (schedule, self.declare_queue(queue))
        return schedule

    def plan_schedule(
        self, id: str, task: Task[..., Any] | str, **options: Unpack[ScheduleOptions]
    ) -> tuple[Schedule, Queue]:
        """The schedule that `schedule` would declare, and the queue that its messages go by."""
        from taskq.schedule import (  # read only where there are schedules
            ONE_MESSAGE_ONLY,
            make_schedule,
            plan_of,
            request_template,
        )

        plan = plan_of(id, options)
        if isinstance(task, str) and "://" in task:
            message = request_template(id, task, options, now=self.clock.now())
            return make_schedule(id, plan, message, options.get("overlap", "allow")), Queue(message.queue)
        for name in ("headers", "body"):
            if name in options:
                raise InvalidSchedule(f"schedule {id}: {name} goes with a URL; a task takes args and kwargs")
        task = self.get_task(task) if isinstance(task, str) else task
        if not isinstance(task, Task):
            raise InvalidSchedule(f"schedule {id}: a task, its name or a URL, got {task!r:.80}")
        for name, why in ONE_MESSAGE_ONLY.items():
            if name in task.chosen:
                raise InvalidSchedule(f"schedule {id}: options({name}=…) {why}")
        prepared = task.message(*options.get("args", ()), **options.get("kwargs", {}))
        return make_schedule(id, plan, prepared.message, options.get("overlap", "allow")), prepared.queue

    @functools.cached_property
    def schedules(self) -> Schedules:
        """Schedules at run time: list, make, change, pause, resume, run now, delete."""
        from taskq.schedules import Schedules

        return Schedules(self)

    def declare_queue(self, queue: Queue | str) -> Queue:
        """Make a queue known to this app, so that its workers serve it; a name alone is an open queue."""
        if isinstance(queue, str):
            return self.queue_named(queue, keep=True)
        if not isinstance(queue, Queue):
            raise InvalidSetting(f"queue takes a Queue or its name, got {queue!r}")
        known = self.queues.get(queue.name)
        if known is not None and known != queue and known != Queue(queue.name):
            raise InvalidSetting(f"queue {queue.name!r} is declared twice, with different limits: {known} and {queue}")
        self.queues[queue.name] = queue
        return queue

    def queue_named(self, name: str, *, keep: bool = False) -> Queue:
        """The declared queue of that name, or an open one."""
        queue = self.queues.get(name) or Queue(check_queue_name(name))
        if keep:
            self.queues[name] = queue
        return queue

    def get_task(self, name: str) -> Task[..., Any]:
        """The task of that name.

        Raises:
            UnknownTask: naming those that there are.
        """
        try:
            return self.tasks[name]
        except KeyError:
            known = ", ".join(sorted(self.tasks)[:20]) or "none"
            raise UnknownTask(f"no task is named {name!r}; this app has: {known}") from None

    def check_payload(self, task: str, payload: bytes) -> None:
        """Raise PayloadTooLarge for encoded arguments above `max_payload_bytes`."""
        if len(payload) > self.settings.max_payload_bytes:
            raise PayloadTooLarge(
                f"{task}: the arguments are {len(payload)} bytes encoded, {self.settings.max_payload_bytes} are "
                "allowed (max_payload_bytes): store large data elsewhere and send its name",
                size_bytes=len(payload),
                limit_bytes=self.settings.max_payload_bytes,
            )

    # -- life -------------------------------------------------------------------------------

    def make_broker(self) -> Broker:
        """A broker by the settings, not yet open."""
        return open_broker(
            self.settings.broker,
            prefix=self.settings.prefix,
            publish_timeout=self.settings.publish_timeout,
            connect_timeout=self.settings.connect_timeout,
            heartbeat=self.settings.heartbeat,
            clock=self.clock,
            name=self.settings.name,
        )

    def make_store(self) -> Store:
        """A store by the settings, not yet open."""
        return open_store(self.settings.store)

    def client(self) -> Client:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = Client(
                settings=self.settings, clock=self.clock, open_broker=self.make_broker, open_store=self.make_store
            )
            self._clients[loop] = client
        return client

    async def open(self) -> None:
        """Connect now, rather than at the first enqueue.

        Raises:
            BrokerUnavailable, AccessRefused: within `connect_timeout`.
        """
        await self.client().broker()

    async def close(self) -> None:
        """Close the connections of the running loop and of sync callers."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
        portal = self._portal
        if portal is not None and portal.loop is not asyncio.get_running_loop():
            await asyncio.to_thread(self._close_portal)

    async def __aenter__(self) -> TaskQ:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __enter__(self) -> TaskQ:
        self.run(self._open_here)
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_portal()

    async def _open_here(self) -> None:
        await self.client().broker()

    def _close_portal(self, timeout: float = 5.0) -> None:
        with self._lock:
            portal, self._portal = self._portal, None
        if portal is not None:
            portal.close(self._close_here, timeout)

    async def _close_here(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def adopt_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let sync callers use this running loop (a worker's) instead of a thread of their own."""
        self._home = loop

    def run(self, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run a coroutine for a sync caller, on the app's loop.

        Raises:
            EnqueueInsideLoop: an event loop is running in this thread.
        """
        loop = self._loop_of_sync_callers()

        async def here() -> R:
            return await work()

        future: Future[R] = asyncio.run_coroutine_threadsafe(here(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _loop_of_sync_callers(self) -> asyncio.AbstractEventLoop:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise EnqueueInsideLoop(
                "an event loop is running here and a blocking call would stop it: use the _async twin "
                "(await task.enqueue_async(…), await handle.get_result_async(), …)"
            )
        if self._home is not None:
            return self._home
        with self._lock:
            if self._portal is None or not self._portal.alive:
                self._portal = Portal(loop_factory(self.settings.loop))
                atexit.register(_close_at_exit, WeakMethod(self._close_portal))
            return self._portal.loop

    # -- sending ----------------------------------------------------------------------------

    def send(self, prepared: Prepared[R]) -> Handle[R]:
        """Send what `Task.message` made, from sync code."""
        call = OfferCall(self.client, prepared)
        self._loop_of_sync_callers().call_soon_threadsafe(call.begin)
        sent = call.wait() or self.run(lambda: self.client().send_in_steps(prepared))
        return self._handle(prepared, *sent)

    async def send_async(self, prepared: Prepared[R]) -> Handle[R]:
        """Send what `Task.message` made."""
        return self._handle(prepared, *await self.client().send(prepared))

    def enqueue_many(self, messages: Sequence[Prepared[Any]]) -> list[Handle[Any]]:
        """Send all, in order, with one wait for the confirms; handles in the same order.

        All were validated when they were made (`task.message(…)`), so that nothing is sent if one is wrong.

        Raises:
            EnqueueFailed: some were not confirmed; it carries the handles of both kinds.
        """
        batch = list(messages)
        return self._handles(batch, self.run(lambda: self.client().send_many(batch)))

    async def enqueue_many_async(self, messages: Sequence[Prepared[Any]]) -> list[Handle[Any]]:
        """`enqueue_many` for async code."""
        batch = list(messages)
        return self._handles(batch, await self.client().send_many(batch))

    def _handles(self, batch: Sequence[Prepared[Any]], sent: Sequence[Any]) -> list[Handle[Any]]:
        handles, causes = [], {}
        for prepared, (message, mailbox, error) in zip(batch, sent, strict=True):
            handles.append(self._handle(prepared, message, mailbox))
            if error is not None:
                causes[message.id] = error
        if not causes:
            return handles
        raise EnqueueFailed(
            f"{len(causes)} of {len(handles)} messages were not confirmed; the first: {next(iter(causes.values()))}",
            confirmed=[handle for handle in handles if handle.id not in causes],
            unconfirmed=[handle for handle in handles if handle.id in causes],
            causes=causes,
        )

    def _handle(self, prepared: Prepared[R], message: Message, mailbox: Mailbox) -> Handle[R]:
        own = message.id == prepared.message.id and prepared.task.definition.result
        partitions = prepared.queue.partitions
        lane = lane_of(message.key, partitions) if partitions and message.key else None
        return Handle(
            message.id,
            waiter=self,
            result_type=prepared.task.result_type,
            queue=(message.queue, prepared.queue.fifo),
            lane=lane,
            mailbox=mailbox if own else None,
        )

    # -- asking -----------------------------------------------------------------------------

    def handle(self, message_id: str) -> Handle[Any]:
        """A handle on any message, from any process."""
        return Handle(message_id, waiter=self)

    def wait(self, handle: Handle[Any], timeout: float | None) -> Ending:
        """The ending of a message, for a sync caller; inside a task its place is free meanwhile."""
        return self.run(lambda: self.wait_async(handle, timeout))

    async def wait_async(self, handle: Handle[Any], timeout: float | None) -> Ending:
        """The ending of a message; inside a task its place is free meanwhile."""
        context = current_or_none()
        wait = self.client().wait(handle.id, timeout, handle.mailbox)
        if context is None:
            return await wait
        context.waits.leave()
        try:
            return await wait
        finally:
            await context.waits.enter()

    def status(self, handle: Handle[Any]) -> Status:
        """Where a message is."""
        return self.run(lambda: self.status_async(handle))

    async def status_async(self, handle: Handle[Any]) -> Status:
        return await self.client().status(handle.id, handle.mailbox)

    def cancel(self, handle: Handle[Any]) -> bool:
        """Ask that it never starts, or stops. False: it had ended."""
        return self.run(lambda: self.cancel_async(handle))

    async def cancel_async(self, handle: Handle[Any]) -> bool:
        from taskq.store.base import CancelEffect  # here: most producers need no store

        return await self.client().cancel(handle.id) is not CancelEffect.FINISHED

    def record(self, handle: Handle[Any]) -> MessageRecord | None:
        """All that the store knows."""
        return self.run(lambda: self.record_async(handle))

    async def record_async(self, handle: Handle[Any]) -> MessageRecord | None:
        return await self.client().record(handle.id)


class TaskDecorator:
    """The type of `app.task(…)`; never made: the closure in `TaskQ.task` stands in for it."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        raise TypeError("TaskDecorator only describes a type")


class OfferCall:
    """One `Client.offer` of a thread without a loop, which waits for its outcome on a lock: no task, no future."""

    __slots__ = ("_client", "_ended", "_error", "_prepared", "_sent")

    def __init__(self, client: Callable[[], Client], prepared: Prepared[Any]) -> None:
        self._client = client
        self._prepared = prepared
        self._sent: tuple[Message, Mailbox] | None = None
        self._error: BaseException | None = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def begin(self) -> None:
        """In the loop."""
        try:
            self._sent = self._client().offer(self._prepared, self._end)
        except BaseException as error:
            self._end(error)
        else:
            if self._sent is None:
                self._ended.release()

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._ended.release()

    def wait(self) -> tuple[Message, Mailbox] | None:
        """In the thread: what was sent, once it is confirmed; None: it is for `Client.send_in_steps`."""
        self._ended.acquire()
        if isinstance(self._error, QueueMissing):
            return None
        if self._error is not None:
            raise self._error
        return self._sent


class Portal:
    """An event loop on a daemon thread, for sync callers."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self._run, name="taskq-sync", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self.loop.is_closed()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def close(self, work: Callable[[], Coroutine[Any, Any, None]], timeout: float) -> None:
        """Run the last work, for at most `timeout` seconds, and end the loop."""
        if not self.alive:
            return
        future = asyncio.run_coroutine_threadsafe(work(), self.loop)
        try:
            future.result(timeout)
        except FutureTimeout:
            future.cancel()
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop that the setting `loop` names.

    Raises:
        InvalidSetting: it is not installed.
    """
    if name != "asyncio":
        try:
            import uvloop
        except ImportError as error:
            if name == "uvloop":
                raise InvalidSetting("loop='uvloop' needs the extra: pip install 'taskq[fast]'") from error
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def _close_at_exit(close: Any) -> None:
    method = close()
    if method is not None:
        method(CLOSE_AT_EXIT)


def _limit(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidSetting(f"{name} must be seconds above zero, got {value!r}")
    return float(value)


def _module_of(function: Callable[..., Any]) -> str:
    """The function's module, under the name that a worker imports it by, also while it runs as `__main__`."""
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def _same_source(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """The same function declared anew: its module was imported again, under `__main__` or by a reload."""
    try:
        return (inspect.getsourcefile(one), one.__code__.co_firstlineno) == (
            inspect.getsourcefile(other),
            other.__code__.co_firstlineno,
        )
    except (TypeError, AttributeError):
        return False
