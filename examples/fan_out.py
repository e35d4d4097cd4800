"""A task that enqueues others and awaits their results.

While it waits, its place in the worker is free: a worker that runs one message at a time (`-c 1`)
gets through, and so does a whole fleet whose every place is taken by tasks that wait.

    python examples/fan_out.py
"""

import asyncio

from running import an_app, worker

from taskq import Queue, WouldDeadlock

app = an_app()
strict = Queue("strict", parallelism=1)


@app.task
async def count_words(text: str) -> int:
    return len(text.split())


@app.task
async def count_all(texts: list[str]) -> int:
    handles = [await count_words.enqueue_async(text) for text in texts]
    return sum([await handle.get_result_async() for handle in handles])


@app.task
def count_all_on_a_thread(texts: list[str]) -> int:
    handles = [count_words.enqueue(text) for text in texts]
    return sum(handle.get_result() for handle in handles)


@app.task(queue=strict, retry=0)
async def trap() -> str:
    mine = await strict.enqueue_async(count_words, "it cannot start before I end")
    try:
        await mine.get_result_async()
    except WouldDeadlock as error:
        return str(error)
    return "waited for itself"


async def main() -> None:
    texts = ["the quick brown fox", "jumps over", "the lazy dog"] * 5
    async with worker(app, concurrency=1):
        total = await (await count_all.enqueue_async(texts)).get_result_async(timeout=20)
        assert total == 45, total
        threaded = await (await count_all_on_a_thread.enqueue_async(texts)).get_result_async(timeout=20)
        assert threaded == 45, threaded
        print(f"{total} words, counted by {len(texts)} tasks inside one, in a worker with one place")
        said = await (await trap.enqueue_async()).get_result_async(timeout=20)
        assert "its own FIFO queue" in said, said
        print("on its own FIFO queue:", said[:60], "…")


if __name__ == "__main__":
    asyncio.run(main())
