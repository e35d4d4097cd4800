"""The life of processes that send and of tasks that wait: scripts end, apps close cleanly, nobody waits for himself."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from taskq import Queue, TaskFailed, TaskQ
from taskq.worker.run import Run
from tests.integration.room import Room
from tests.support import PATIENCE, eventually, pulse

ROOT = Path(__file__).parents[2]


def script(folder: Path, room_urls: dict[str, str], body: str) -> tuple[list[str], float]:
    """Run a script with warnings as errors; its lines, and the seconds from its last line to its end."""
    head = f"""
        import asyncio, logging, time
        from taskq import TaskQ
        # asyncio's development mode also reports steps that a busy machine made slow: no fault of the script
        logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing"))
        app = TaskQ(**{room_urls!r})

        @app.task(name="add")
        async def add(a: int, b: int) -> int:
            return a + b
    """
    path = folder / "script.py"
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body) + "\nprint(time.time(), flush=True)\n")
    command = [sys.executable, "-W", "error", "-X", "dev", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    ended = time.time()
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    *lines, last = done.stdout.split()
    return lines, ended - float(last)


async def test_a_script_that_never_closes_ends_within_a_second(rabbit_room: Room, tmp_path: Path) -> None:
    """Sync or async, after enqueues and a result: it ends by itself within 1 s of its last line, without a warning."""
    room = rabbit_room

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    lines, rest = await asyncio.to_thread(script, tmp_path, room.urls, "print(add.enqueue(1, 2).get_result(60))")
    assert lines == ["3"] and rest < 5 + pulse.lost(), (lines, rest)
    many = "print(len(app.enqueue_many([add.message(n, 1) for n in range(100)])))"
    lines, rest = await asyncio.to_thread(script, tmp_path, room.urls, many)
    assert lines == ["100"] and rest < 5 + pulse.lost(), (lines, rest)


async def test_apps_close_without_a_warning(rabbit_room: Room, tmp_path: Path) -> None:
    """`with app`, `async with app`, `close()`, twice over: nothing is left open, by Python's own development mode."""
    room = rabbit_room

    @room.app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    body = """
        async def main():
            async with app:
                handle = await add.enqueue_async(1, 2)
                print(await handle.get_result_async(60), await handle.get_status_async())
            await app.open()
            await (await add.options(delay=0.01).enqueue_async(3, 4)).get_result_async(60)
            await app.close()
            await app.close()

        asyncio.run(main())
        with app:
            print(add.enqueue(5, 6).get_result(60))
        with app:
            print(add.enqueue(7, 8).get_result(60))
    """
    lines, rest = await asyncio.to_thread(script, tmp_path, room.urls, body)
    assert lines == ["3", "SUCCEEDED", "11", "15"] and rest < 5 + pulse.lost(), (lines, rest)


async def test_sync_and_async_code_of_one_process(room: Room) -> None:
    """Threads without a loop share one connection beside the loop's; handles pass between them."""

    @room.app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    await room.worker()
    handle = await asyncio.to_thread(add.enqueue, 1, 2)
    assert await handle.get_result_async(60) == 3
    mine = await add.enqueue_async(3, 4)
    assert await asyncio.to_thread(mine.get_result, 60) == 7
    results = await asyncio.gather(
        *(asyncio.to_thread(lambda n=n: add.enqueue(n, 1).get_result(60)) for n in range(20))
    )
    assert results == [number + 1 for number in range(20)]


async def test_a_task_that_awaits_handles_leaves_its_place_to_them(room: Room) -> None:
    """With `-c 1` a fan-out inside a task does not starve itself: async and in a thread, two levels deep."""

    @room.app.task(name="leaf")
    async def leaf(number: int) -> int:
        return number

    @room.app.task(name="branch")
    async def branch(numbers: list[int]) -> int:
        handles = [await leaf.enqueue_async(number) for number in numbers]
        return sum([await handle.get_result_async(60) for handle in handles])

    @room.app.task(name="root")
    def root() -> int:
        handles = [branch.enqueue([number, number]) for number in range(5)]
        return sum(handle.get_result(60) for handle in handles)

    await room.worker(concurrency=1)
    assert await (await root.enqueue_async()).get_result_async(60) == 20


async def test_a_task_that_waits_on_its_own_fifo_queue_is_told(room: Room) -> None:
    """WouldDeadlock at once, in async and sync code; on another queue, or without waiting, it goes well."""
    fifo, other = Queue("fifo", parallelism=1), Queue("other", parallelism=1)
    app = room.app

    @app.task(name="leaf", queue=fifo)
    async def leaf() -> int:
        return 1

    @app.task(name="waits", queue=fifo, retry=0)
    async def waits() -> int:
        return await (await leaf.enqueue_async()).get_result_async(60)

    @app.task(name="waits_in_thread", queue=fifo, retry=0)
    def waits_in_thread() -> int:
        return leaf.enqueue().get_result(60)

    @app.task(name="passes_on", queue=fifo, retry=0)
    async def passes_on() -> int:
        return await (await leaf.options(queue=other).enqueue_async()).get_result_async(60)

    app.declare_queue(other)
    await room.worker()
    for task in (waits, waits_in_thread):
        with pytest.raises(TaskFailed, match="WouldDeadlock"):
            await (await task.enqueue_async()).get_result_async(60)
    assert await (await passes_on.enqueue_async()).get_result_async(60) == 1


async def test_a_worker_serves_what_it_is_told(room: Room) -> None:
    """With `queues` it leaves others alone; without, it serves those of its app and those that an operator made."""
    ran: list[str] = []

    @room.app.task(name="note")
    async def note(text: str) -> None:
        ran.append(text)

    for name in ("mine", "yours"):
        room.app.declare_queue(Queue(name))
    worker = await room.worker(queues=["mine"])
    yours = await note.options(queue="yours").enqueue_async("yours")
    mine = await note.options(queue="mine").enqueue_async("mine")
    await mine.get_result_async(60)
    assert ran == ["mine"]
    await room.stop(worker)
    await room.worker()
    await yours.get_result_async(60)
    store = await room.store()
    await store.ensure_queue(Queue("made-later", parallelism=2), origin="operator")
    await room.set_queue("made-later", parallelism=3)
    later = await note.options(queue="made-later").enqueue_async("later")
    await later.get_result_async(60)
    assert ran == ["mine", "yours", "later"]


async def test_one_app_on_many_loops(rabbitmq_url: str, prefix: str, sqlite_store_url: str) -> None:
    """Every loop has its own connections; a loop that has ended takes nothing of the others with it."""
    app = TaskQ(broker=rabbitmq_url, store=sqlite_store_url, prefix=prefix)

    @app.task(name="note")
    async def note(number: int) -> None: ...

    async def once(number: int) -> None:
        await note.enqueue_async(number)
        await app.close()

    for number in range(3):
        await asyncio.to_thread(lambda number=number: asyncio.run(once(number)))
    await note.enqueue_async(3)
    store = await app.client().store()
    assert [record.name for record in await store.list_queues()] == ["default"]
    await app.close()


async def test_what_has_run_leaves_nothing_for_the_garbage_collector(room: Room) -> None:
    """A run is freed when its last reference goes, on the loop and on a thread, recorded or not: no cycle holds it."""

    @room.app.task(name="loop")
    async def loop(number: int) -> int:
        return number

    @room.app.task(name="unrecorded", result=False)
    async def unrecorded(number: int) -> None: ...

    @room.app.task(name="thread")
    def thread(number: int) -> int:
        return number

    worker = await room.worker()

    async def run(number: int) -> None:
        before = worker.attempts.done
        messages = [task.message(n) for task in (loop, unrecorded, thread) for n in range(number)]
        await room.app.enqueue_many_async(messages)
        await eventually(lambda: worker.attempts.done == before + 3 * number and not worker.attempts.runs)

    await run(3)  # what is made once has been made
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await run(20)
        gc.collect()
        found = [one.message.task for one in gc.garbage if isinstance(one, Run)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert found == []
