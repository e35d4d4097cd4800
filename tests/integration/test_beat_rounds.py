"""What ticks that fall due one by one cost a beat."""

from __future__ import annotations

import asyncio
import time
import uuid

from taskq import TaskQ
from taskq.beat.beat import BREATH
from taskq.store.base import Advance, Tick
from taskq.worker.worker import Worker
from tests.support import eventually


async def test_ticks_that_fall_due_one_by_one_go_together(sqlite_store_url: str, anyio_backend: str) -> None:
    """Ticks spread over the milliseconds are sent in at most twenty transactions a second."""
    app = TaskQ(broker=f"memory://{uuid.uuid4().hex}", store=sqlite_store_url)

    @app.task(name="note", queue="ticks")
    async def note() -> None: ...

    for number in range(60):
        app.schedule(f"s{number}", note, every=1.0, jitter=0.999)
    store = await app.client().store()
    fire, rounds = store.fire, 0

    async def counted(advances: list[Advance]) -> list[list[Tick]]:
        nonlocal rounds
        rounds += 1
        return await fire(advances)

    store.fire = counted  # type: ignore[method-assign, assignment]
    worker = Worker(app, queues=[], beat=True)
    began = time.monotonic()
    running = asyncio.create_task(worker.run())
    try:
        await eventually(lambda: worker.beat is not None and worker.beat.ticks >= 150)
        took = time.monotonic() - began
        assert rounds <= took / BREATH + 1
    finally:
        worker.stop()
        await running
        await app.close()
