"""The harness's app with a task whose first run takes long, and ends in a way that no other run of it does."""

from __future__ import annotations

import asyncio

from taskq import Reject, Retry, TaskQ, current
from tests.integration.harness_app import events, make_app


async def haunt(ending: str, first: float, later: float) -> str:
    """Take so many seconds in the first run, `later` in others. Others return "living"; the first returns "zombie",
    or fails, or is rejected."""
    events.write("start", 0, ending)
    is_first = events.starts() == 1
    try:
        await asyncio.sleep(first if is_first else later)
    except asyncio.CancelledError:
        events.write("stop", 0, ending)
        raise
    if is_first and ending != "returns":
        events.write("fail", 0, ending)
        raise Reject("zombie") if ending == "is rejected" else RuntimeError(f"zombie in attempt {current().attempt}")
    events.write("end", 0, ending)
    return "zombie" if is_first else "living"


def add_haunt(app: TaskQ) -> None:
    app.task(name="haunt", retry=Retry(max_retries=5, delay=0.02))(haunt)


app = make_app()
add_haunt(app)
