"""What follows from an attempt that raised."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

from taskq.errors import InvalidArguments, Reject, RetryAfter, Snooze
from taskq.message import Message
from taskq.outcome import (
    MAX_TEXT_CHARS,
    MAX_TRACEBACK_CHARS,
    Again,
    Dead,
    Failure,
    Later,
    Outcome,
    Status,
    decide,
)
from taskq.retry import Retry

MESSAGE = Message("m", "task", "q", b"", "application/msgpack", datetime(2026, 1, 1, tzinfo=UTC))
STEADY = Retry(2, delay=10)


def after(error: BaseException, *, attempt: int = 1, policy: Retry = STEADY, message: Message = MESSAGE) -> Outcome:
    return decide(message, error, policy=policy, attempt=attempt, rng=Random(0))


def test_retries_are_counted() -> None:
    """Two retries mean three attempts; the third failure is for good."""
    assert [type(after(OSError(), attempt=attempt)) for attempt in (1, 2, 3)] == [Again, Again, Dead]
    outcome = after(OSError("gone"))
    assert isinstance(outcome, Again) and outcome.delay == 10 and outcome.failure.message == "gone"


def test_the_messages_own_policy_wins() -> None:
    """A policy given at enqueue replaces the task's."""
    message = replace(MESSAGE, retry=Retry(0))
    assert isinstance(after(OSError(), message=message), Dead)


def test_a_rejection_is_final() -> None:
    """A task that rejects its message is dead at once, with that reason."""
    outcome = after(Reject("no"))
    assert isinstance(outcome, Dead) and outcome.reason == "rejected"


def test_errors_of_a_nested_enqueue_are_like_any_other() -> None:
    """A task whose own enqueue has wrong arguments is not told that its arguments were wrong."""
    assert isinstance(after(InvalidArguments("x")), Again)


def test_excluded_errors_are_not_retried() -> None:
    """An error that the policy does not cover is dead at the first attempt."""
    policy = Retry(5, on=(OSError,))
    assert isinstance(after(ValueError(), policy=policy), Dead)
    assert isinstance(after(OSError(), policy=policy), Again)


def test_snooze_uses_no_attempt() -> None:
    """A task may put itself off although no retry is left."""
    assert after(Snooze(7), attempt=99) == Later(7.0)


def test_retry_after() -> None:
    """The task's own wish wins over the policy's delay and its classes, not over its count."""
    outcome = after(RetryAfter(42), policy=Retry(1, delay=1, on=(OSError,)))
    assert isinstance(outcome, Again) and outcome.delay == 42
    assert isinstance(after(RetryAfter(42), attempt=3), Dead)


def test_failure_is_bounded() -> None:
    """Of an endless text its beginning is kept, of an endless traceback its end."""
    try:
        raise ValueError("x" * 100_000 + "!")
    except ValueError as error:
        failure = Failure.of(error)
    assert failure.type == "ValueError"
    assert len(failure.message) == MAX_TEXT_CHARS and len(failure.traceback) == MAX_TRACEBACK_CHARS
    assert failure.traceback.endswith("!\n")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_without_a_text() -> None:
    """An exception whose own `__str__` fails is still recorded, under its full name."""
    failure = Failure.of(Mute())
    assert failure.type.endswith("test_outcome.Mute") and "RuntimeError" in failure.message
    assert isinstance(after(Mute()), Again)


def test_final() -> None:
    """Exactly four states are final."""
    assert {status for status in Status if status.final} == {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}
