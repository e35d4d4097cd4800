"""Tasks: functions with a name, a queue and a policy, that can be enqueued.

A task knows a `Sender` (the app gives itself) and makes messages; it never sees a broker.
Arguments are bound to the signature and validated by their annotations when they are enqueued,
and again by the worker before the call.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast

from taskq.clock import Clock
from taskq.errors import InvalidArguments, InvalidSetting
from taskq.flow import Flow
from taskq.handle import Handle
from taskq.http.request import HTTP_TASK
from taskq.message import MAX_ID_CHARS, Message, new_id
from taskq.queue import MAX_PRIORITY, Queue, RateLimit
from taskq.retry import YEAR, Retry
from taskq.serialization import MSGPACK, encode_arguments

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Pool = Literal["async", "thread", "process"]
OnDuplicate = Literal["raise", "return_existing", "replace"]

_NAME = re.compile(r"[A-Za-z0-9_.:<>-]{1,200}")
_UNSET: Any = object()


@dataclass(frozen=True, slots=True)
class Dedup:
    """How a message with a `dedup_id` meets an earlier one."""

    window: float | None
    on_duplicate: OnDuplicate


@dataclass(frozen=True, slots=True)
class Prepared(Generic[R_co]):
    """A message that is ready to be sent, with what its sender must know: made by `Task.message`."""

    message: Message
    queue: Queue
    task: Task[..., R_co]
    dedup: Dedup | None = None


class Sender(Protocol):
    """What a task needs of its app."""

    clock: Clock

    def queue_named(self, name: str) -> Queue: ...
    def check_payload(self, task: str, payload: bytes) -> None: ...
    def send(self, prepared: Prepared[R]) -> Handle[R]: ...
    async def send_async(self, prepared: Prepared[R]) -> Handle[R]: ...


class Options(TypedDict, total=False):
    """What can be said about one enqueue.

    queue         Queue or its name, instead of the task's own
    delay         seconds (or a timedelta) before it may start
    not_before    aware datetime before which it may not start, instead of `delay`
    expires       seconds (or a timedelta) after which it may no longer start; counted from the enqueue
    timeout       seconds of one attempt, instead of the task's own
    retry         Retry, instead of the task's own
    priority      0 to 31, larger first; obeyed by queues with priorities
    key           messages of one key keep their order, on a partitioned queue
    flow_key      messages of one key share limits, whatever their queues (flow control)
    flow_parallelism  at most so many runs of the flow key at once
    flow_rate     RateLimit, of the flow key's starts
    dedup_id      at most one unfinished message of the queue has it
    dedup_window  seconds that it holds instead, finished or not
    on_duplicate  "raise" (default), "return_existing" (its handle) or "replace" (cancel it, unless it started)
    headers       text -> text, for the task to read in `current().headers`
    id            a message id of your own
    """

    queue: Queue | str
    delay: float | timedelta
    not_before: datetime
    expires: float | timedelta
    timeout: float
    retry: Retry
    priority: int
    key: str
    flow_key: str
    flow_parallelism: int
    flow_rate: RateLimit
    dedup_id: str
    dedup_window: float
    on_duplicate: OnDuplicate
    headers: Mapping[str, str]
    id: str


@dataclass(frozen=True, slots=True)
class Definition:
    """What the worker must know of a task.

    name          str
    queue         Queue
    retry         Retry
    timeout       float | None: seconds of one attempt; then it is stopped and counts as failed
    soft_timeout  float | None: seconds after which `SoftTimeout` is raised inside
    pool          "async" | "thread" | "process"
    result        bool: keep what it returns
    """

    name: str
    queue: Queue
    retry: Retry
    timeout: float | None
    soft_timeout: float | None
    pool: Pool
    result: bool


class Task(Generic[P, R]):
    """A function that can be enqueued; calling it still calls the function."""

    def __init__(
        self,
        function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]],
        *,
        definition: Definition,
        sender: Sender,
        options: Options | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.definition = definition
        self._sender = sender
        self._options: Options = options or {}

    @property
    def name(self) -> str:
        """The name under which messages find it."""
        return self.definition.name

    @property
    def chosen(self) -> frozenset[str]:
        """The names of the options that `options` has set."""
        return frozenset(self._options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def options(self, **options: Unpack[Options]) -> Task[P, R]:
        """The same task, with these options on its enqueues; later ones win over earlier ones."""
        merged = cast(Options, {**self._options, **options})
        check_options(self.name, merged)
        task = Task(self.function, definition=self.definition, sender=self._sender, options=merged)
        task.__dict__["_arguments"] = self._arguments
        return task

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Send a message that runs this task; return once the broker has confirmed it. For sync code.

        Raises, within `publish_timeout` seconds:
            InvalidArguments, NotSerializable, PayloadTooLarge: nothing was sent.
            BrokerUnavailable: nothing was sent; its subclass PublishUnconfirmed: it may have been.
            Duplicate: an unfinished message has the same `dedup_id`.
            EnqueueInsideLoop: an event loop is running here; use `enqueue_async`.
        """
        return self._sender.send(self.message(*args, **kwargs))

    async def enqueue_async(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`enqueue` for async code."""
        return await self._sender.send_async(self.message(*args, **kwargs))

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """The message that `enqueue` would send, for `app.enqueue_many`."""
        payload = encode_arguments(*self.validate(args, kwargs))
        self._sender.check_payload(self.name, payload)
        now = self._sender.clock.now()
        if not self._options and self.definition.queue.partitions is None:
            message = Message(
                id=new_id(now),
                task=self.name,
                queue=self.definition.queue.name,
                payload=payload,
                payload_type=MSGPACK,
                created_at=now,
            )
            return Prepared(message, self.definition.queue, self)
        return self._with_options(payload, now)

    def _with_options(self, payload: bytes, now: datetime) -> Prepared[R]:
        options = self._options
        queue = options.get("queue", self.definition.queue)
        queue = self._sender.queue_named(queue) if isinstance(queue, str) else queue
        check_key(queue, options)
        message = Message(
            id=options.get("id") or new_id(now),
            task=self.name,
            queue=queue.name,
            payload=payload,
            payload_type=MSGPACK,
            created_at=now,
            headers=dict(options.get("headers", {})),
            not_before=_start_of(options, now),
            expires_at=now + _span(options["expires"]) if "expires" in options else None,
            timeout=options.get("timeout"),
            priority=options.get("priority", 0),
            key=options.get("key"),
            flow=_flow_of(self.name, options),
            dedup_id=options.get("dedup_id"),
            retry=options.get("retry"),
        )
        dedup = None
        if message.dedup_id is not None:
            dedup = Dedup(options.get("dedup_window"), options.get("on_duplicate", "raise"))
        return Prepared(message, queue, self, dedup)

    def validate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments bound to the signature and validated by its annotations.

        Raises:
            InvalidArguments: naming the argument, its value and what was expected.
        """
        return self._arguments(args, kwargs)

    def prepare(self) -> None:
        """Build what validating the arguments needs, so that it is there when a start has been stamped."""
        _ = self._arguments

    @functools.cached_property
    def _arguments(self) -> ArgumentCheck:
        return ArgumentCheck(self.name, self.function)

    @functools.cached_property
    def result_type(self) -> Any:
        """The annotation of what it returns, `Any` without one."""
        try:
            return typing.get_type_hints(self.function, include_extras=True).get("return", Any)
        except NameError:
            return Any


class ArgumentCheck:
    """Binds and validates the arguments of one function, by pydantic, in lax mode."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        from pydantic import ConfigDict, PydanticUserError, ValidationError, validate_call

        self.name = name
        self._refusal = ValidationError
        self.signature = inspect.signature(function)
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as error:
            raise InvalidSetting(f"task {name!r}: an annotation cannot be resolved: {error}") from error

        def keep(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
            # Defaults are left to the worker's own code: what was not said does not travel.
            args = tuple([value for value in args if value is not _UNSET])
            return args, {name: value for name, value in kwargs.items() if value is not _UNSET}

        parameters = [
            parameter.replace(
                annotation=hints.get(parameter.name, Any),
                default=parameter.empty if parameter.default is parameter.empty else _UNSET,
            )
            for parameter in self.signature.parameters.values()
        ]
        keep.__signature__ = self.signature.replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=inspect.Signature.empty
        )
        keep.__annotations__ = {name: hint for name, hint in hints.items() if name != "return"}
        keep.__name__ = getattr(function, "__name__", "task")
        try:
            self._validate = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(keep)
        except PydanticUserError as error:
            raise InvalidSetting(f"task {name!r}: its annotations cannot be validated: {error}") from error

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            return self._validate(*args, **kwargs)
        except self._refusal as error:
            raise InvalidArguments(self._describe(error)) from error

    def _describe(self, error: Any) -> str:
        problems = []
        for problem in error.errors(include_url=False)[:5]:
            place = ".".join(self._place(index, part) for index, part in enumerate(problem["loc"])) or "arguments"
            given = "" if problem["type"].startswith("missing") else f"={problem['input']!r:.80}"
            problems.append(f"{place}{given}: {problem['msg']}")
        return f"{self.name}{self.signature}: " + "; ".join(problems)

    def _place(self, index: int, part: object) -> str:
        if index == 0 and isinstance(part, int):
            names = list(self.signature.parameters)
            return names[part] if part < len(names) else f"argument {part + 1}"
        return str(part)


def check_options(task: str, options: Options) -> None:
    """Raise for an option that cannot be, before anything is sent."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        known = ", ".join(Options.__annotations__)
        raise InvalidSetting(f"{task}: unknown option {min(unknown)!r}; there are: {known}")
    for name in ("delay", "expires", "timeout", "dedup_window"):
        value = options.get(name)
        seconds = value.total_seconds() if isinstance(value, timedelta) else value
        if seconds is None:
            continue
        lowest = "zero or more" if name == "delay" else "more than zero"
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= YEAR or (seconds == 0 and name != "delay"):  # type: ignore[operator]
            raise InvalidSetting(f"{task}: {name} must be seconds, {lowest} and at most a year, got {value!r}")
    _flow_of(task, options)
    priority = options.get("priority", 0)
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise InvalidSetting(f"{task}: priority must be a whole number from 0 to {MAX_PRIORITY}, got {priority!r}")
    _check_texts(task, options)
    instant = options.get("not_before")
    if instant is not None and (not isinstance(instant, datetime) or instant.tzinfo is None):
        raise InvalidSetting(f"{task}: not_before must be an aware datetime, got {instant!r}")
    if instant is not None and "delay" in options:
        raise InvalidSetting(f"{task}: give either delay or not_before, not both")
    if "retry" in options:
        if not isinstance(options["retry"], Retry):
            raise InvalidSetting(f"{task}: retry takes a Retry, got {options['retry']!r}")
        options["retry"].to_wire()
    if ("dedup_window" in options or "on_duplicate" in options) and "dedup_id" not in options:
        raise InvalidSetting(f"{task}: dedup_window and on_duplicate need a dedup_id")
    if options.get("on_duplicate", "raise") not in typing.get_args(OnDuplicate):
        raise InvalidSetting(f"{task}: on_duplicate is one of {typing.get_args(OnDuplicate)}")


def _check_texts(task: str, options: Options) -> None:
    for name in ("key", "dedup_id", "id"):
        value = options.get(name)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS):
            raise InvalidSetting(f"{task}: {name} must be text of 1 to {MAX_ID_CHARS} characters, got {value!r}")
    headers = options.get("headers", {})
    if not isinstance(headers, Mapping) or len(headers) > 64:
        raise InvalidSetting(f"{task}: headers must be a map of at most 64 texts, got {headers!r}")
    for key, value in headers.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidSetting(f"{task}: headers map text to text, got {key!r}: {value!r}")


def _flow_of(task: str, options: Options) -> Flow | None:
    limits = {"flow_parallelism", "flow_rate"} & options.keys()
    if "flow_key" not in options:
        if limits:
            raise InvalidSetting(f"{task}: {min(limits)} is a limit of a flow_key: give one")
        return None
    try:
        return Flow(options["flow_key"], options.get("flow_parallelism"), options.get("flow_rate"))
    except ValueError as error:
        raise InvalidSetting(f"{task}: {error}") from None


def check_key(queue: Queue, options: Options) -> None:
    """A key belongs to a partitioned queue, and a partitioned queue needs one."""
    if queue.partitions is not None and options.get("key") is None:
        raise InvalidSetting(f"queue {queue.name!r} is partitioned: say which key with options(key=…)")


def check_task_name(name: object) -> str:
    """The name, if it can be one: 1 to 200 letters, digits, `_`, `.`, `:`, `-`, `<`, `>`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSetting(f"task name {name!r} is not allowed: use 1 to 200 letters, digits, '_', '.', ':' or '-'")
    if name == HTTP_TASK:
        raise InvalidSetting(f"task name {name!r} is taken: it is the task that delivers messages over HTTP")
    return name


def pool_of(function: Callable[..., Any], pool: Pool | None) -> Pool:
    """Where a function runs: `async def` on the loop, `def` on a thread unless a process is asked for."""
    is_async = inspect.iscoroutinefunction(function)
    if pool is None:
        return "async" if is_async else "thread"
    if pool not in typing.get_args(Pool):
        raise InvalidSetting(f"pool is one of {typing.get_args(Pool)}, got {pool!r}")
    if is_async and pool == "thread":
        raise InvalidSetting('an async task runs on the loop or in a process; write a plain def for pool="thread"')
    if not is_async and pool == "async":
        raise InvalidSetting('pool="async" needs an async def')
    return pool


def with_reply(prepared: Prepared[R], reply_to: str | None, recorded: bool) -> Prepared[R]:
    """The same, with where its result is to be sent, unless nobody may wait for it."""
    if not prepared.task.definition.result:
        reply_to = None
    if reply_to is None and not recorded:
        return prepared
    message = replace(prepared.message, reply_to=reply_to, recorded=recorded)
    return replace(prepared, message=message)


def _start_of(options: Options, now: datetime) -> datetime | None:
    if "not_before" in options:
        return options["not_before"]
    delay = options.get("delay")
    return None if not delay else now + _span(delay)


def _span(value: float | timedelta) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
