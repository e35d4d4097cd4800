"""One at a time for an id: what to do while an earlier message with the same `dedup_id` is unfinished.

python examples/deduplication.py
"""

import asyncio

from running import an_app, worker

from taskq import Duplicate, TaskCancelled

app = an_app()
built: list[str] = []


@app.task
async def rebuild(site: str, why: str) -> str:
    built.append(why)
    return f"{site} rebuilt: {why}"


async def main() -> None:
    blog = rebuild.options(dedup_id="blog", delay=0.3)
    first = await blog.enqueue_async("blog", "a new post")
    try:
        await blog.enqueue_async("blog", "a typo")  # the default: an error that names the other message
    except Duplicate as error:
        assert error.message_id == first.id
        print("refused:", error.dedup_id)
    same = await blog.options(on_duplicate="return_existing").enqueue_async("blog", "another typo")
    assert same == first
    newer = await blog.options(on_duplicate="replace").enqueue_async("blog", "a new theme")
    async with worker(app):
        print(await newer.get_result_async(timeout=10))
        try:
            await first.get_result_async(timeout=10)
        except TaskCancelled:
            print("the first one was replaced")
        # It has ended, so its id is free again. A window instead holds for its time, ended or not.
        windowed = rebuild.options(dedup_id="shop", dedup_window=600)
        shop = await windowed.enqueue_async("shop", "new prices")
        await shop.get_result_async(timeout=10)
        again = await windowed.options(on_duplicate="return_existing").enqueue_async("shop", "the same prices")
        assert again == shop
        await (await blog.enqueue_async("blog", "an update")).get_result_async(timeout=10)
    assert built == ["a new theme", "new prices", "an update"], built


if __name__ == "__main__":
    asyncio.run(main())
