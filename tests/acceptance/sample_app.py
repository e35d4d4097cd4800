"""The app that the command line's tests send to and run; broker, store and prefix come from `TASKQ_*`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from taskq import Queue, Retry, TaskQ
from tests.support import eventually

FOLDER = "TASKQ_TEST_FOLDER"  # where tasks leave what they did, and look for leave to go on

line = Queue("line", parallelism=1)


async def add(a: int, b: int = 1) -> int:
    return a + b


def note(word: str) -> None:
    """Append a line to the file `notes`; refuse while there is a file `refuse`."""
    folder = Path(os.environ[FOLDER])
    if (folder / "refuse").exists():
        raise PermissionError(f"{word} is refused")
    with (folder / "notes").open("a") as notes:
        notes.write(word + "\n")


async def hold(word: str) -> str:
    """Say so in the file `holding`, and go on once there is a file `go`."""
    folder = Path(os.environ[FOLDER])
    (folder / "holding").write_text(word)
    await eventually((folder / "go").exists)
    return word


def make_app(**settings: Any) -> TaskQ:
    app = TaskQ(**settings)
    app.task(name="add")(add)
    app.task(name="note", queue=line, retry=Retry(max_retries=0))(note)
    app.task(name="hold", queue=line)(hold)
    return app


app = make_app()
