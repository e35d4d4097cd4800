"""Distributed tasks on RabbitMQ: ordered queues, limits over all processes, nothing lost.

The names below are what taskq promises; everything else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq import default as _default
from taskq.context import Context, SoftTimeout, current
from taskq.errors import (
    AccessRefused,
    BrokerUnavailable,
    Duplicate,
    EnqueueFailed,
    EnqueueInsideLoop,
    InvalidArguments,
    InvalidMessage,
    InvalidQueue,
    InvalidRequest,
    InvalidSchedule,
    InvalidSetting,
    NotSerializable,
    PayloadTooLarge,
    PublishUnconfirmed,
    QueueMismatch,
    QueueMissing,
    Reject,
    ResultTimeout,
    RetryAfter,
    SchemaTooNew,
    Snooze,
    StoreMismatch,
    StoreUnavailable,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskqError,
    UnknownTask,
    WouldDeadlock,
)
from taskq.handle import Handle
from taskq.outcome import Status
from taskq.queue import Queue, RateLimit
from taskq.retry import Retry
from taskq.task import Task

if TYPE_CHECKING:
    from taskq.app import TaskQ

# The module taskq.task has put itself under this name when it was loaded, just now and never again.
task = _default.task

__version__ = "0.1.0"

__all__ = [
    # declaring
    "TaskQ",
    "task",
    "Queue",
    "RateLimit",
    "Retry",
    # using
    "Task",
    "Handle",
    "Status",
    # inside a task
    "current",
    "Context",
    "Reject",
    "Snooze",
    "RetryAfter",
    "SoftTimeout",
    # errors
    "TaskqError",
    "InvalidArguments",
    "NotSerializable",
    "PayloadTooLarge",
    "UnknownTask",
    "InvalidQueue",
    "InvalidRequest",
    "InvalidSetting",
    "InvalidSchedule",
    "InvalidMessage",
    "EnqueueInsideLoop",
    "WouldDeadlock",
    "BrokerUnavailable",
    "AccessRefused",
    "PublishUnconfirmed",
    "QueueMissing",
    "QueueMismatch",
    "StoreUnavailable",
    "StoreMismatch",
    "SchemaTooNew",
    "Duplicate",
    "EnqueueFailed",
    "TaskFailed",
    "TaskCancelled",
    "TaskExpired",
    "ResultTimeout",
]


def __getattr__(name: str) -> Any:
    """TaskQ is loaded when it is first used, so that `import taskq` is quick."""
    if name == "TaskQ":
        from taskq.app import TaskQ

        globals()[name] = TaskQ
        return TaskQ
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
