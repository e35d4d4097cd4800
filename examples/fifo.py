"""A FIFO queue: one at a time, in order of arrival, also while attempts fail and are retried.

python examples/fifo.py
"""

import asyncio

from running import an_app, worker

from taskq import Queue, Retry, current

app = an_app()
ledger = Queue("ledger", parallelism=1)
booked: list[int] = []


@app.task(queue=ledger, retry=Retry(max_retries=3, delay=0.05))
async def book(entry: int) -> int:
    if entry % 5 == 2 and current().attempt == 1:
        raise ConnectionError("the bank is busy")
    booked.append(entry)
    return current().attempt


async def main() -> None:
    async with worker(app):
        handles = [await book.enqueue_async(entry) for entry in range(15)]
        attempts = [await handle.get_result_async(timeout=10) for handle in handles]
    assert booked == list(range(15)), booked
    assert attempts == [2 if entry % 5 == 2 else 1 for entry in range(15)], attempts
    print("booked in order:", *booked)
    print("attempts:", *attempts)


if __name__ == "__main__":
    asyncio.run(main())
