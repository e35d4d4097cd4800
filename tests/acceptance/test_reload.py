"""`taskq worker --reload`: a saved file takes effect, and what ran starts again with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.support import PATIENCE, eventually

CODE = """
import asyncio
from taskq import TaskQ

app = TaskQ()
VERSION = 1

@app.task(name="version")
async def version() -> int:
    return VERSION

@app.task(name="long")
async def long() -> int:
    open("started", "w").close()
    await asyncio.sleep(600 if VERSION == 1 else 0)
    return VERSION
"""


@pytest.fixture
def worker(rabbitmq_url: str, sqlite_store_url: str, prefix: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`taskq worker --reload` on a folder of its own; at the end SIGTERM ends it well."""
    (tmp_path / "reloaded_app.py").write_text(CODE)
    given = {"TASKQ_BROKER": rabbitmq_url, "TASKQ_STORE": sqlite_store_url, "TASKQ_PREFIX": prefix}
    line = [sys.executable, "-m", "taskq", "worker", "reloaded_app:app", "--reload"]
    process = subprocess.Popen(line, cwd=tmp_path, env=os.environ | given)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


async def test_a_saved_file_takes_effect(
    worker: subprocess.Popen[bytes], rabbitmq_url: str, sqlite_store_url: str, prefix: str, tmp_path: Path
) -> None:
    """After a change the worker runs the new code, and the message that was running runs again with it."""
    app = TaskQ(broker=rabbitmq_url, store=sqlite_store_url, prefix=prefix)

    @app.task(name="version")
    async def version() -> int:
        return 0

    @app.task(name="long")
    async def long() -> int:
        return 0

    try:
        assert await (await version.enqueue_async()).get_result_async(60) == 1
        running = await long.enqueue_async()
        await eventually((tmp_path / "started").exists)
        (tmp_path / "reloaded_app.py").write_text(CODE.replace("VERSION = 1\n", "VERSION = 2\n"))
        assert await running.get_result_async(60) == 2
        assert await (await version.enqueue_async()).get_result_async(60) == 2
        assert worker.poll() is None
    finally:
        await app.close()
