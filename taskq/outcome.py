"""How a run can end, and what follows from it: values and one decision.

`worker.executor` makes a `Result` of a run; `decide` turns it into the Outcome that
`worker.settle` performs. Neither reaches a broker or a store.
"""

from __future__ import annotations

import enum
import traceback as traceback_module
from dataclasses import dataclass
from datetime import datetime
from random import Random

from taskq.errors import Reject, RetryAfter, Snooze
from taskq.http.request import DeliveryFailed
from taskq.message import Message
from taskq.retry import Retry

MAX_TRACEBACK_CHARS = 20_000
MAX_TEXT_CHARS = 4_000


class Status(enum.StrEnum):
    """Where a message is in its life; docs/lifecycle.md draws the arrows."""

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def final(self) -> bool:
        """Nothing changes it any more."""
        return self in _FINAL


_FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is kept: type (qualified name), message and traceback as text."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = "".join(traceback_module.format_exception(error))
        return cls(name, _text_of(error)[:MAX_TEXT_CHARS], text[-MAX_TRACEBACK_CHARS:])


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # a user's own __str__; what the task raised matters more
        return f"<its text cannot be made: {type(broken).__name__}>"


@dataclass(frozen=True, slots=True)
class Done:
    """The task returned; `result` is its encoded value, None when results are not kept.

    `response`, here and below: what a request was answered (`Response.encode`); None: it was none.
    """

    result: bytes | None
    response: bytes | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """The attempt failed and is tried again after `delay` seconds."""

    delay: float
    failure: Failure
    response: bytes | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The task put itself off by `delay` seconds, without using an attempt."""

    delay: float


@dataclass(frozen=True, slots=True)
class Held:
    """Its flow key lets nothing more start; it waits in the place of one that has waited since then."""

    since: datetime


@dataclass(frozen=True, slots=True)
class Missed:
    """The task is not known here; after `delay` seconds another worker may know it."""

    delay: float


@dataclass(frozen=True, slots=True)
class Dead:
    """The message failed for good. `reason` is one word: failed, rejected, crashed, unknown-task, …"""

    reason: str
    failure: Failure
    response: bytes | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Its time to start had passed."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was cancelled, before or during the run."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The worker stops: the run ended without an outcome and another worker starts it anew."""


Outcome = Done | Again | Later | Held | Missed | Dead | Expired | Cancelled | GivenBack


def decide(message: Message, error: BaseException, *, policy: Retry, attempt: int, rng: Random) -> Outcome:
    """What follows from an attempt that raised.

    Args:
        message: the message that ran.
        error: what the attempt raised.
        policy: the task's retry policy; the message's own wins over it.
        attempt: which attempt it was, from 1.
        rng: where jitter comes from.
    """
    policy = message.retry or policy
    failure = Failure.of(error)
    match error:
        case Snooze():
            return Later(error.seconds)
        case Reject():
            return Dead("rejected", failure)
        case DeliveryFailed(final=True):
            return Dead("non-retryable", failure, error.response.encode())
        case _ if not isinstance(error, RetryAfter) and not policy.covers(error):
            return Dead("failed", failure)
        case _ if attempt > policy.max_retries:
            return Dead("failed", failure, _response(error))
        case RetryAfter():
            return Again(error.seconds, failure)
        case DeliveryFailed(retry_after=float(seconds)):
            return Again(seconds, failure, _response(error))
        case _:
            return Again(policy.delay_after(attempt - 1, rng=rng), failure, _response(error))


def _response(error: BaseException) -> bytes | None:
    return error.response.encode() if isinstance(error, DeliveryFailed) else None
