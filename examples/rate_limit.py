"""A rate: at most five starts in any second, over all workers. It can stand beside a parallelism.

python examples/rate_limit.py
"""

import asyncio
import time

from running import an_app, worker

from taskq import Queue, RateLimit

LIMIT, PER = 5, 1.0

app = an_app()
calls = Queue("calls", rate_limit=RateLimit(LIMIT, per=PER))


@app.task(queue=calls)
async def call(number: int) -> float:
    return time.time()


async def main() -> None:
    async with worker(app):
        handles = await app.enqueue_many_async([call.message(number) for number in range(12)])
        starts = sorted([await handle.get_result_async(timeout=20) for handle in handles])
    gaps = [starts[i + LIMIT] - starts[i] for i in range(len(starts) - LIMIT)]
    assert min(gaps) >= PER, min(gaps)
    assert starts[LIMIT - 1] - starts[0] < PER / 2  # the first window is used at once, not dripped
    print(f"12 calls; start[i+{LIMIT}] - start[i] was at least {PER:g} s")


if __name__ == "__main__":
    asyncio.run(main())
