"""Cancel: what waits or is queued never starts, a running coroutine is cancelled, a thread is asked.

python examples/cancel.py
"""

import asyncio
import threading

from running import an_app, worker

from taskq import Queue, Status, TaskCancelled, current

app = an_app()
line = Queue("line", parallelism=1)
events: list[str] = []
running = asyncio.Event()
thread_runs = threading.Event()


@app.task(queue=line)
async def copy(name: str) -> None:
    events.append(f"{name} began")
    running.set()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        events.append(f"{name} was cancelled")  # clean up here, and let it pass
        raise


@app.task
def count_stars() -> None:
    thread_runs.set()
    while not current().cancelled:  # a thread cannot be interrupted: it looks by itself
        threading.Event().wait(0.02)
    events.append("the thread stopped")


async def is_cancelled(handle) -> bool:
    try:
        await handle.get_result_async(timeout=10)
    except TaskCancelled:
        return await handle.get_status_async() is Status.CANCELLED
    return False


async def main() -> None:
    async with worker(app):
        first, second = await app.enqueue_many_async([copy.message("first"), copy.message("second")])
        waiting = await copy.options(delay=3600).enqueue_async("third")
        stars = await count_stars.enqueue_async()
        await running.wait()
        await asyncio.to_thread(thread_runs.wait)
        for handle in (waiting, second, first, stars):
            assert await handle.cancel_async()  # True: it had not ended
        for handle in (waiting, second, first, stars):
            assert await is_cancelled(handle)
        assert not await first.cancel_async()  # False: nothing is left to cancel
    assert sorted(events) == ["first began", "first was cancelled", "the thread stopped"], events
    print("; ".join(sorted(events)))


if __name__ == "__main__":
    asyncio.run(main())
