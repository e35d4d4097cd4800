"""The default app, for scripts and shared modules: `from taskq import task` declares on it.

Built from the environment when it is first used, one to a process.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskq.app import TaskQ

_lock = threading.Lock()
_app: TaskQ | None = None


def default_app() -> TaskQ:
    """The default app, made now if it is not there yet."""
    global _app
    with _lock:
        if _app is None:
            from taskq.app import TaskQ

            _app = TaskQ()
    return _app


def _task(*args: Any, **options: Any) -> Any:
    """Declare a function as a task of the default app; see `TaskQ.task`."""
    return default_app().task(*args, **options)


if TYPE_CHECKING:
    task = default_app().task
else:
    task = _task
