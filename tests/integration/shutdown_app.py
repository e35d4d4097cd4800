"""The harness's app with tasks that are hard to stop."""

from __future__ import annotations

import time

from taskq import TaskQ
from tests.integration.harness_app import events, make_app


async def block(seconds: float) -> None:
    """Block the event loop, which no async task should."""
    events.write("start", 0, "")
    time.sleep(seconds)  # noqa: ASYNC251 - the very fault
    events.write("end", 0, "")


def thread(seconds: float) -> None:
    """Sleep in a thread, deaf to everything."""
    events.write("start", 0, "")
    time.sleep(seconds)
    events.write("end", 0, "")


def child(seconds: float) -> None:
    """Sleep in a process."""
    events.write("start", 0, "")
    time.sleep(seconds)
    events.write("end", 0, "")


def extend(app: TaskQ) -> TaskQ:
    """Add them to an app."""
    app.task(name="block")(block)
    app.task(name="thread")(thread)
    app.task(name="child", pool="process")(child)
    return app


app = extend(make_app())
