"""What a running task can ask about itself, and say: `current()`.

The worker sets the context around each run; threads inherit it, a process child sets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


class SoftTimeout(TimeoutError):
    """Raised inside a task when its soft time limit is reached, so that it can clean up."""


class Waits:
    """What happens to a run's place in its worker while the task awaits a handle. This one has no place."""

    def leave(self) -> None:
        """The task begins to wait: its place is free."""

    async def enter(self) -> None:
        """The wait is over: return once there is a place again."""


@dataclass(slots=True)
class Context:
    """One run of one message.

    id        str, the message's
    task      str
    queue     str
    lane      int | None: which FIFO lane, on a partitioned queue
    fifo      bool: the queue is FIFO
    attempt   int, from 1
    headers   Mapping[str, str]
    """

    id: str
    task: str
    queue: str
    attempt: int
    headers: Mapping[str, str]
    fifo: bool = False
    lane: int | None = None
    _cancelled: bool = False
    _progress: Callable[[int, int], None] = field(default=lambda done, total: None, repr=False)
    _heartbeat: Callable[[], None] = field(default=lambda: None, repr=False)
    waits: Waits = field(default_factory=Waits, repr=False)

    @property
    def cancelled(self) -> bool:
        """A cancel was asked for, a time limit has passed, or the worker stops: end soon.

        Tasks in threads cannot be interrupted and should look here.
        """
        return self._cancelled

    def progress(self, done: int, total: int) -> None:
        """Show how far the run is; kept with the message, at most once a second."""
        self._progress(done, total)

    def heartbeat(self) -> bool:
        """Say that the run goes on: its time limit counts anew from here. False once it is `cancelled`."""
        self._heartbeat()
        return not self._cancelled


_current: ContextVar[Context | None] = ContextVar("taskq_current", default=None)


def current() -> Context:
    """The context of the task that is running here.

    Raises:
        RuntimeError: no task is running in this context.
    """
    context = _current.get()
    if context is None:
        raise RuntimeError("taskq.current() is only there inside a running task")
    return context


def current_or_none() -> Context | None:
    """The context of the task that is running here, or None outside of one."""
    return _current.get()


def enter(context: Context) -> None:
    """Make this the context of whatever runs in the present contextvars context."""
    _current.set(context)
