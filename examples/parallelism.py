"""A limit over all workers: at most ten at once, and all ten when there is work for them.

python examples/parallelism.py
"""

import asyncio
import time

from running import an_app, worker

from taskq import Queue

app = an_app()
renders = Queue("renders", parallelism=10)


@app.task(queue=renders)
async def render(page: int) -> tuple[float, float]:
    began = time.monotonic()
    await asyncio.sleep(0.2)
    return began, time.monotonic()


async def main() -> None:
    async with worker(app, concurrency=32):
        handles = [await renders.enqueue_async(render, page) for page in range(40)]
        spans = [await handle.get_result_async(timeout=20) for handle in handles]
    most = max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)
    assert most == 10, most
    print(f"40 pages, at most {most} at once")


if __name__ == "__main__":
    asyncio.run(main())
