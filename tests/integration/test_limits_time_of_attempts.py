"""Time limits: the soft one is raised inside, the hard one ends the attempt, a heartbeat puts it off."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from taskq import Queue, SoftTimeout, TaskCancelled, TaskFailed, current
from tests.integration import limits_app
from tests.integration.room import Room
from tests.support import eventually

CHILDREN = "tests.integration.limits_app:app"


def alive(pid: int) -> bool:
    """A process of that id is there, and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_the_soft_limit_is_raised_inside_async_tasks_and_threads(room: Room) -> None:
    """SoftTimeout reaches the code where it stands, which may clean up and return."""

    @room.app.task(name="on_loop", soft_timeout=0.1)
    async def on_loop() -> str:
        try:
            await asyncio.sleep(10)
        except SoftTimeout:
            return "cleaned up"
        return "slept"

    @room.app.task(name="on_thread", soft_timeout=0.1)
    def on_thread() -> str:
        try:
            for _ in range(1000):
                time.sleep(0.01)
        except SoftTimeout:
            return "cleaned up"
        return "slept"

    @room.app.task(name="uncaught", soft_timeout=0.1, retry=0)
    async def uncaught() -> None:
        await asyncio.sleep(10)

    await room.worker()
    handles = [await task.enqueue_async() for task in (on_loop, on_thread)]
    for handle in handles:
        assert await handle.get_result_async(60) == "cleaned up"
    with pytest.raises(TaskFailed, match="SoftTimeout"):
        await (await uncaught.enqueue_async()).get_result_async(60)


async def test_the_hard_limit_ends_an_async_task(room: Room) -> None:
    """It is cancelled, again if it swallows that, and the attempt counts as failed with the limit in its text."""
    cancels: list[float] = []

    @room.app.task(name="stubborn", timeout=1.5, retry=0)
    async def stubborn() -> str:
        while len(cancels) < 2:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancels.append(time.monotonic())
        raise asyncio.CancelledError

    @room.app.task(name="long", timeout=600, retry=0)
    async def long() -> None:
        await asyncio.sleep(30)

    await room.worker()
    with pytest.raises(TaskFailed, match="1.5 s") as caught:
        await (await stubborn.enqueue_async()).get_result_async(60)
    assert caught.value.type == "TimeoutError"
    assert len(cancels) == 2
    with pytest.raises(TaskFailed, match="0.1 s"):
        await (await long.options(timeout=0.1).enqueue_async()).get_result_async(60)


async def test_a_time_limit_uses_a_retry(room: Room) -> None:
    """An attempt that took too long is tried again like any that failed."""
    attempts: list[int] = []

    @room.app.task(name="second", timeout=1.5, retry=2)
    async def second() -> int:
        attempts.append(current().attempt)
        await asyncio.sleep(10 if len(attempts) == 1 else 0)
        return current().attempt

    await room.worker()
    assert await (await second.enqueue_async()).get_result_async(60) == 2


async def test_a_thread_over_its_limit_keeps_its_place_and_the_worker_is_replaced(room: Room) -> None:
    """The message fails in time; the thread goes on, so the worker asks for its successor and says that it is stuck."""
    release = threading.Event()

    @room.app.task(name="blocked", timeout=0.2, retry=0)
    def blocked() -> None:
        release.wait(20)

    worker = await room.worker(grace=5.0)
    handle = await blocked.enqueue_async()
    try:
        with pytest.raises(TaskFailed, match="0.2 s"):
            await handle.get_result_async(60)
        await eventually(lambda: worker.recycling)
        await eventually(lambda: worker.stopping)
    finally:
        release.set()


async def test_a_heartbeat_puts_the_limit_off(room: Room) -> None:
    """Work that goes on longer than its limit ends well if it says so in time; so on the loop and in a thread."""

    @room.app.task(name="on_loop", timeout=4.0, retry=0)
    async def on_loop() -> str:
        for _ in range(9):
            await asyncio.sleep(0.5)
            assert current().heartbeat()
        return "done"

    @room.app.task(name="on_thread", timeout=4.0, retry=0)
    def on_thread() -> str:
        for _ in range(9):
            time.sleep(0.5)
            assert current().heartbeat()
        return "done"

    await room.worker()
    handles = [await task.enqueue_async() for task in (on_loop, on_thread)]
    for handle in handles:
        assert await handle.get_result_async(60) == "done"


async def test_processes_obey_limits_heartbeats_and_cancels(room: Room, tmp_path: Path) -> None:
    """Soft limit raised inside, hard limit and cancel kill the process, a heartbeat puts the limit off."""
    room.app.tasks |= limits_app.app.tasks
    send = room.app.send_async
    await room.worker(app_ref=CHILDREN, concurrency=4)
    soft = await send(limits_app.soft.message())
    beats = await send(limits_app.beats.message())
    hard = await send(limits_app.sleep.options(timeout=4.0).message(60, str(tmp_path / "hard")))
    assert await soft.get_result_async(60) == "cleaned up"
    assert await beats.get_result_async(60) == 1
    with pytest.raises(TaskFailed, match="4 s"):
        await hard.get_result_async(60)
    await eventually(lambda: not alive(int((tmp_path / "hard").read_text())))

    deaf = await send(limits_app.sleep.message(60, str(tmp_path / "deaf")))
    keen = await send(limits_app.watches.message(str(tmp_path / "keen")))
    for name in ("deaf", "keen"):
        await eventually(lambda name=name: (tmp_path / name).exists() and (tmp_path / name).read_text())
    pid = int((tmp_path / "deaf").read_text())
    assert alive(pid) and pid != os.getpid()
    for handle in (deaf, keen):
        await handle.cancel_async()
        with pytest.raises(TaskCancelled):
            await handle.get_result_async(60)
    assert (tmp_path / "keen").read_text() == "seen"
    await eventually(lambda: not alive(pid))


async def test_a_task_longer_than_the_brokers_own_timeout_is_refused(
    rabbit_room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the broker obeys no timeout per queue, every start says so, and a longer task is an error at start."""
    room = rabbit_room

    @room.app.task(name="long", timeout=3600)
    async def long() -> None: ...

    broker = await room.app.client().broker()
    if broker.facts.queue_ack_timeout:
        await room.worker(settings={"broker_ack_timeout": 1800})
        assert "acknowledgement timeout" not in caplog.text
        return
    with pytest.raises(ValueError, match=r"'long'.*3600 s.*1800 s.*consumer_timeout"):
        await room.worker(settings={"broker_ack_timeout": 1800})
    assert "consumer_timeout" in caplog.text
    caplog.clear()
    await room.worker(settings={"broker_ack_timeout": 7200}, queues=[Queue("other").name])
    assert "7200 s" in caplog.text
