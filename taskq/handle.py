"""A handle on a message: its result, its status, its cancel; from the process that sent it or any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from taskq.context import current_or_none
from taskq.errors import TaskCancelled, TaskExpired, TaskFailed, WouldDeadlock
from taskq.outcome import Failure, Status
from taskq.serialization import decode_value

if TYPE_CHECKING:
    from taskq.store.base import MessageRecord

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a message ended, as its waiters are told.

    status       Status, a final one
    result       bytes | None; result_type str | None: its codec
    failure      Failure | None
    """

    status: Status
    result: bytes | None = None
    result_type: str | None = None
    failure: Failure | None = None


class Waiter(Protocol):
    """What a handle needs of its app."""

    def wait(self, handle: Handle[Any], timeout: float | None) -> Ending: ...
    async def wait_async(self, handle: Handle[Any], timeout: float | None) -> Ending: ...
    def status(self, handle: Handle[Any]) -> Status: ...
    async def status_async(self, handle: Handle[Any]) -> Status: ...
    def cancel(self, handle: Handle[Any]) -> bool: ...
    async def cancel_async(self, handle: Handle[Any]) -> bool: ...
    def record(self, handle: Handle[Any]) -> MessageRecord | None: ...
    async def record_async(self, handle: Handle[Any]) -> MessageRecord | None: ...


class Mailbox:
    """Where the reply to a message of this process is put; lives as long as its handle."""

    __slots__ = ("__weakref__", "ending", "missed")

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self.missed = False  # the reply queue that it named is gone: the reply may be lost


class Handle(Generic[R_co]):
    """One message. Handles of the same id are equal, in whatever process.

    Each verb has an `_async` twin; the plain ones raise `EnqueueInsideLoop` inside a running event loop.
    """

    __slots__ = ("__weakref__", "_lane", "_queue", "_result_type", "_waiter", "id", "mailbox")

    def __init__(
        self,
        message_id: str,
        *,
        waiter: Waiter,
        result_type: Any = Any,
        queue: tuple[str, bool] | None = None,
        lane: int | None = None,
        mailbox: Mailbox | None = None,
    ) -> None:
        self.id = message_id
        self._waiter = waiter
        self._result_type = result_type
        self._queue = queue
        self._lane = lane
        self.mailbox = mailbox

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def get_result(self, timeout: float | None = None) -> R_co:
        """Wait for the task and return what it returned; can be called again and again.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TaskFailed: it failed for good (TaskExpired: its time to start had passed).
            TaskCancelled: it was cancelled.
            ResultTimeout: no result in time; the task goes on.
            WouldDeadlock: called inside a task of the same FIFO queue, which waits for itself so.
        """
        self._check_deadlock()
        return self._value(self._waiter.wait(self, timeout))

    async def get_result_async(self, timeout: float | None = None) -> R_co:
        """`get_result` for async code."""
        self._check_deadlock()
        return self._value(await self._waiter.wait_async(self, timeout))

    def get_status(self) -> Status:
        """Where the message is; UNKNOWN if the store has not seen it."""
        return self._waiter.status(self)

    async def get_status_async(self) -> Status:
        """`get_status` for async code."""
        return await self._waiter.status_async(self)

    def cancel(self) -> bool:
        """Ask that it never starts, or stops; durable. False: it had ended already."""
        return self._waiter.cancel(self)

    async def cancel_async(self) -> bool:
        """`cancel` for async code."""
        return await self._waiter.cancel_async(self)

    def info(self) -> MessageRecord | None:
        """All that the store knows of the message; None if it has not seen it."""
        return self._waiter.record(self)

    async def info_async(self) -> MessageRecord | None:
        """`info` for async code."""
        return await self._waiter.record_async(self)

    def _check_deadlock(self) -> None:
        context = current_or_none()
        if context is None or self._queue is None or not self._queue[1]:
            return
        if context.fifo and context.queue == self._queue[0] and context.lane == self._lane:
            raise WouldDeadlock(
                f"task {context.task!r} waits for {self.id} on its own FIFO queue {context.queue!r}, where the "
                "message cannot start before the task ends: enqueue it on another queue, or do not wait"
            )

    def _value(self, ending: Ending) -> R_co:
        match ending.status:
            case Status.SUCCEEDED:
                return self._revive(ending)
            case Status.CANCELLED:
                raise TaskCancelled(f"message {self.id} was cancelled")
            case Status.EXPIRED:
                raise TaskExpired("expired", "its time to start had passed", message_id=self.id)
            case _:
                failure = ending.failure or Failure("failed", "")
                raise TaskFailed(failure.type, failure.message, failure.traceback, message_id=self.id)

    def _revive(self, ending: Ending) -> R_co:
        if ending.result is None or ending.result_type is None:
            return None  # type: ignore[return-value]
        value = decode_value(ending.result, ending.result_type)
        if self._result_type is Any or self._result_type is None or type(value) is self._result_type:
            return value  # type: ignore[no-any-return]
        from pydantic import TypeAdapter

        return TypeAdapter(self._result_type).validate_python(value)  # type: ignore[no-any-return]
