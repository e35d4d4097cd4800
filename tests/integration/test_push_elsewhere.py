"""A process that did not send the message hears of its end at once."""

from __future__ import annotations

import asyncio
import time

from tests.integration.room import Room
from tests.support import eventually, pulse


async def test_a_result_is_pushed_to_a_process_that_only_knows_the_id(room: Room) -> None:
    """A waiter elsewhere has the result within 500 ms, although it looks only every second."""
    release = asyncio.Event()

    @room.app.task(name="held")
    async def held() -> str:
        await release.wait()
        return "out"

    worker = await room.worker()
    handle = await held.enqueue_async()
    elsewhere = room.twin()
    waiting = asyncio.create_task(elsewhere.handle(handle.id).get_result_async(60))
    await eventually(lambda: handle.id in worker.settler.wanted)
    late = []
    for _ in range(3):
        began = time.monotonic()
        release.set()
        assert await waiting == "out"
        late.append(time.monotonic() - began)
        release.clear()
        handle = await held.enqueue_async()
        waiting = asyncio.create_task(elsewhere.handle(handle.id).get_result_async(60))
        await eventually(lambda: handle.id in worker.settler.wanted)  # noqa: B023
    release.set()
    await waiting
    assert sorted(late)[1] < 0.5 + pulse.lost()
