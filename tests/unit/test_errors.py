"""The tree of errors."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from taskq import errors
from taskq.errors import (
    Duplicate,
    EnqueueFailed,
    PayloadTooLarge,
    RetryAfter,
    Snooze,
    TaskExpired,
    TaskFailed,
    TaskqError,
)

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TaskqError)]


def test_tree_is_drawn() -> None:
    """The drawing at the top of the module names every error, and nothing else."""
    assert set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) == {kind.__name__ for kind in CLASSES} - {
        "TaskqError"
    }


@pytest.mark.parametrize(
    "error",
    [
        PayloadTooLarge("too large", size_bytes=9, limit_bytes=8),
        Duplicate("there", queue="q", dedup_id="d", message_id="m"),
        EnqueueFailed("some", confirmed=[1], unconfirmed=[2], causes={"m": ValueError("x")}),
        TaskFailed("ValueError", "no", "Traceback", message_id="m"),
        TaskExpired("expired", ""),
        *(kind("text") for kind in CLASSES if "__init__" not in vars(kind) and not issubclass(kind, TaskFailed)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_passes_between_processes(error: TaskqError) -> None:
    """An error comes out of a pickle with its class, its text and its data."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy).keys() == vars(error).keys()
    assert repr(vars(copy)) == repr(vars(error))


@pytest.mark.parametrize("kind", [Snooze, RetryAfter])
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_waits_that_cannot_be(kind: type[Snooze] | type[RetryAfter], seconds: float) -> None:
    """A task cannot ask for a wait below zero or above a year."""
    with pytest.raises(ValueError, match="zero to 366 days"):
        kind(seconds)


def test_waits_travel() -> None:
    """What a task asks for reaches the worker from another process."""
    assert pickle.loads(pickle.dumps(Snooze(5))).seconds == 5.0
    again = pickle.loads(pickle.dumps(RetryAfter(7, "busy")))
    assert (again.seconds, again.reason) == (7.0, "busy")
