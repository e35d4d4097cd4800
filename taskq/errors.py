"""Every error that taskq raises, in one tree.

An error names the value that was wrong and what to do about it, and carries its data as
attributes. Errors of foreign libraries are translated where those libraries are called.

    TaskqError
    ├── InvalidArguments (TypeError)       the call does not fit the task's signature
    ├── NotSerializable                    a value cannot be encoded
    ├── PayloadTooLarge                    the encoded arguments exceed the limit
    ├── UnknownTask                        no such task in the app
    ├── InvalidQueue (ValueError)          a queue that cannot exist as it is described
    ├── InvalidSetting (ValueError)        a setting, option or URL that cannot be used
    ├── InvalidSchedule (ValueError)       a cron, interval, zone or bound that cannot be
    ├── InvalidRequest (ValueError)        what the HTTP API cannot do as it was said
    ├── InvalidMessage                     bytes that are no message of ours
    ├── EnqueueInsideLoop (RuntimeError)   a sync call inside a running event loop
    ├── WouldDeadlock (RuntimeError)       a task waits for a message that waits for the task
    ├── BrokerUnavailable                  the broker does not answer
    │   ├── AccessRefused                  it answers, and refuses the user, password or vhost
    │   └── PublishUnconfirmed             a message may or may not have arrived
    ├── QueueMissing                       the route of a message leads nowhere
    ├── QueueMismatch                      the queue exists with other arguments
    ├── StoreUnavailable                   the store does not answer
    ├── StoreMismatch                      another store already serves this broker
    ├── SchemaTooNew                       the store was written by a newer taskq
    ├── Duplicate                          an unfinished message has this deduplication id
    ├── EnqueueFailed                      some of many messages were not confirmed
    ├── TaskFailed                         the awaited task failed for good
    ├── TaskCancelled                      the awaited task was cancelled
    ├── TaskExpired                        the awaited task's time to start had passed
    └── ResultTimeout (TimeoutError)       the result did not come in time

A task speaks to its worker with `Reject`, `Snooze` and `RetryAfter`, which are no TaskqErrors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_WAIT = 366 * 86400.0  # seconds


class TaskqError(Exception):
    """Base of all errors raised by taskq. Each can be pickled, so that it passes between processes as it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.args, self.__dict__)


def _revive(kind: type[TaskqError], args: tuple[Any, ...], data: dict[str, Any]) -> TaskqError:
    # Not by calling the class: what its __init__ takes is not what it hands to Exception.
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(data)
    return error


class InvalidArguments(TaskqError, TypeError):
    """The arguments of an enqueue do not fit the task's signature or its types."""


class NotSerializable(TaskqError):
    """An argument or a result has a type that cannot be encoded."""


class PayloadTooLarge(TaskqError):
    """The encoded arguments are larger than `max_payload_bytes`."""

    def __init__(self, message: str, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class UnknownTask(TaskqError):
    """No task of that name is registered in this app."""


class InvalidQueue(TaskqError, ValueError):
    """A queue's name or its limits cannot be, or no such queue exists."""


class InvalidSetting(TaskqError, ValueError):
    """A setting, an option or a URL has a value that cannot be used."""


class InvalidSchedule(TaskqError, ValueError):
    """A schedule cannot be as it is described, or would never fire: a cron, an interval, a zone, a bound."""


class InvalidMessage(TaskqError):
    """Bytes that are no taskq message, or one of a codec or version that is not known."""


class EnqueueInsideLoop(TaskqError, RuntimeError):
    """A blocking call was made inside a running event loop; its `_async` twin is meant."""


class WouldDeadlock(TaskqError, RuntimeError):
    """A task waits for a message that cannot start before the task itself ends."""


class BrokerUnavailable(TaskqError):
    """The broker did not answer within the bound."""


class AccessRefused(BrokerUnavailable):
    """The broker refused the user, the password or the virtual host."""


class PublishUnconfirmed(BrokerUnavailable):
    """No confirm came in time: the message may have arrived. Sending it again under its id is safe."""


class QueueMissing(TaskqError):
    """The broker returned a message because no queue takes it."""


class QueueMismatch(TaskqError):
    """A queue exists on the broker with other arguments than it needs."""


class StoreUnavailable(TaskqError):
    """The store did not answer; the operation can be tried again."""


class StoreMismatch(TaskqError):
    """Another store already serves this broker and prefix."""


class SchemaTooNew(TaskqError):
    """The store's schema is newer than this version of taskq."""


class Duplicate(TaskqError):
    """An unfinished message of the queue already has this deduplication id."""

    def __init__(self, message: str, *, queue: str, dedup_id: str, message_id: str) -> None:
        super().__init__(message)
        self.queue = queue
        self.dedup_id = dedup_id
        self.message_id = message_id


class EnqueueFailed(TaskqError):
    """Some messages of an `enqueue_many` were not confirmed.

    Attributes:
        confirmed: handles of the messages that the broker has.
        unconfirmed: handles of those that it may not have.
        causes: message id -> what went wrong with it.
    """

    def __init__(
        self,
        message: str,
        *,
        confirmed: Sequence[Any],
        unconfirmed: Sequence[Any],
        causes: Mapping[str, Exception],
    ) -> None:
        super().__init__(message)
        self.confirmed = list(confirmed)
        self.unconfirmed = list(unconfirmed)
        self.causes = dict(causes)


class TaskFailed(TaskqError):
    """The task failed for good.

    Attributes:
        type: qualified name of the exception that the task raised, or the reason ("expired", …).
        message: its text.
        traceback: its traceback as text, "" when there is none.
    """

    def __init__(self, type: str, message: str, traceback: str = "", *, message_id: str = "") -> None:
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.message_id = message_id


class TaskCancelled(TaskqError):
    """The message was cancelled before it had a result."""


class TaskExpired(TaskFailed):
    """The message's `expires` passed before it could start."""


class ResultTimeout(TaskqError, TimeoutError):
    """No result within the timeout; the task itself goes on."""


class Reject(Exception):
    """Raised by a task: fail for good, without further retries."""


class Snooze(Exception):
    """Raised by a task: run again after `seconds`, without using up an attempt."""

    def __init__(self, seconds: float) -> None:
        _check_wait("Snooze", seconds)
        super().__init__(seconds)
        self.seconds = float(seconds)


class RetryAfter(Exception):
    """Raised by a task: this attempt failed; try again after `seconds` if a retry is left."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        _check_wait("RetryAfter", seconds)
        super().__init__(seconds, reason)
        self.seconds = float(seconds)
        self.reason = reason


def _check_wait(name: str, seconds: float) -> None:
    if not 0 <= seconds <= LONGEST_WAIT:
        raise ValueError(f"{name} takes seconds from now, zero to 366 days, got {seconds!r}")


class InvalidRequest(TaskqError, ValueError):
    """The HTTP API cannot do what it was asked for as it was said; the text names the header or field, and the mend."""
