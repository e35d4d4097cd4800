"""The harness's app with tasks that do what no task should.

A task that holds its process up writes the time every 20 ms into `beats-PID` beside the event log: what it wrote
last is when it, or its process, ended.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from taskq import TaskQ
from tests.integration.harness_app import EVENTS_VARIABLE, events, make_app

CRASHES = {"segfault": lambda: ctypes.string_at(0), "exit": lambda: os._exit(3)}

hoard: list[bytes] = []


def folder() -> Path:
    """Of the event log."""
    return Path(os.environ[EVENTS_VARIABLE]).parent


def hold_up(seconds: float) -> None:
    """Take the thread for so long, beating."""
    until = time.monotonic() + seconds
    with (folder() / f"beats-{os.getpid()}").open("a", buffering=1) as beats:
        while time.monotonic() < until:
            beats.write(f"{time.time()}\n")
            time.sleep(0.02)


def last_beat(folder: Path, pid: int) -> float:
    """When the process held its thread up last, time.time()."""
    return float((folder / f"beats-{pid}").read_text().splitlines()[-1])


def first_time(number: int) -> bool:
    """Whether this message is the first of its number to ask, over all processes."""
    try:
        os.close(os.open(folder() / f"first-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


async def blocks(number: int, seconds: float) -> int:
    """Block the event loop, in its first run; the pid of who ran it."""
    events.write("start", number, "")
    if first_time(number):
        hold_up(seconds)
    events.write("end", number, "")
    return os.getpid()


async def leaks(number: int, megabytes: int) -> int:
    """Keep so much memory for ever; the pid of who ran it."""
    events.write("start", number, "")
    hoard.append(b"x" * (megabytes * 1_000_000))
    events.write("end", number, "")
    return os.getpid()


async def crashes(number: int, how: str) -> None:
    """Take the process along."""
    events.write("start", number, "")
    CRASHES[how]()


def crashes_apart(number: int, how: str) -> None:
    """The same in a process of its own."""
    events.write("start", number, "")
    CRASHES[how]()


def never_returns(number: int) -> None:
    """Hold a thread for as long as the test may last."""
    events.write("start", number, "")
    hold_up(600)


def add_to(app: TaskQ) -> TaskQ:
    """Register them."""
    app.task(name="blocks")(blocks)
    app.task(name="leaks")(leaks)
    app.task(name="crashes")(crashes)
    app.task(name="crashes_apart", pool="process", retry=1)(crashes_apart)
    app.task(name="never_returns", timeout=1.0, retry=0)(never_returns)
    return app


def made(**settings: Any) -> TaskQ:
    """The whole app."""
    return add_to(make_app(**settings))


app = made()
