"""The app that the harness's workers run: one task whose arguments say how it is to behave.

Broker, store and prefix come from `TASKQ_*`; the event log from TASKQ_TEST_EVENTS.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

from taskq import Retry, TaskQ, current

EVENTS_VARIABLE = "TASKQ_TEST_EVENTS"


class Writer:
    """Appends lines to the event log: one write each, so that lines of several processes never mix."""

    def __init__(self) -> None:
        self._fd = -1

    def write(self, kind: str, number: int, key: str) -> None:
        if self._fd < 0:
            self._fd = os.open(os.environ[EVENTS_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        run = current()
        line = [kind, time.time(), os.getpid(), run.id, run.queue, run.attempt, number, key]
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def starts(self) -> int:
        """How often the present message has begun, by all workers' lines."""
        with open(os.environ[EVENTS_VARIABLE]) as lines:
            return sum(line.startswith('["start"') and current().id in line for line in lines)


events = Writer()


async def step(
    number: int = 0, seconds: float = 0.0, fails: int = 0, key: str = "", dies: int = 0, again: float | None = None
) -> int:
    """Take some seconds, or `again` seconds if this is not its first run; raise in the first `fails` attempts.

    With `dies`, kill the process by that signal.
    """
    events.write("start", number, key)
    if dies:
        os.kill(os.getpid(), signal.Signals(dies))
    if again is not None and events.starts() > 1:
        seconds = again
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        events.write("stop", number, key)
        raise
    if current().attempt <= fails:
        events.write("fail", number, key)
        raise RuntimeError(f"attempt {current().attempt} of {number} fails")
    events.write("end", number, key)
    return number


def make_app(**settings: Any) -> TaskQ:
    """The app; retries come soon, so that tests do not wait for them."""
    app = TaskQ(**settings)
    app.task(name="step", retry=Retry(max_retries=5, delay=0.02))(step)
    return app


app = make_app()
