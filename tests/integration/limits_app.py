"""Tasks for processes of their own: a child imports this module to run them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from taskq import SoftTimeout, TaskQ, current

app = TaskQ(broker="memory://children", store="sqlite://")


@app.task(name="child.sleep", pool="process", retry=0)
def sleep(seconds: float, note: str) -> str:
    """Sleep in small steps, whatever is asked of it."""
    Path(note).write_text(str(os.getpid()))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "slept"


@app.task(name="child.soft", pool="process", retry=0, soft_timeout=2.0, timeout=60)
def soft() -> str:
    """Say whether the soft limit was raised inside."""
    try:
        time.sleep(10)
    except SoftTimeout:
        return "cleaned up"
    return "slept"


@app.task(name="child.beats", pool="process", retry=0, timeout=4.0)
def beats() -> int:
    """Work longer than the limit, saying so."""
    for _ in range(9):
        time.sleep(0.5)
        current().heartbeat()
    return current().attempt


@app.task(name="child.watches", pool="process", retry=0)
def watches(note: str) -> str:
    """End when cancelled."""
    Path(note).write_text(str(os.getpid()))
    while not current().cancelled:
        time.sleep(0.01)
    Path(note).write_text("seen")
    return "late"
