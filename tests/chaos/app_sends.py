"""A sender that dies: `python -m tests.chaos.app_sends QUEUE PLAIN|DEDUP`.

It sends one message after the other and keeps a journal in the folder of `app_dies`: a line with the id before
each enqueue, and one after it has returned. The number of a message is its place in the journal.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path

from tests.chaos.app_dies import app, pass_by


async def main(queue: str, kind: str) -> None:
    """Send until killed."""
    step = app.get_task("step")
    journal = os.open(Path(os.environ["TASKQ_TEST_DIE_IN"]) / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in itertools.count():
        options = {"dedup_id": f"{os.getpid()}-{number}"} if kind == "DEDUP" else {}
        prepared = step.options(queue=queue, **options).message(number=number)
        os.write(journal, f"sending {prepared.message.id}\n".encode())
        await app.send_async(prepared)
        os.write(journal, f"returned {prepared.message.id}\n".encode())
        pass_by("sender: confirmed")
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
