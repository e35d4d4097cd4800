"""Priorities: of what waits in the queue, the larger number starts first; equals keep their order.

python examples/priorities.py
"""

import asyncio

from running import an_app, worker

from taskq import InvalidQueue, Queue

app = an_app()
tickets = Queue("tickets", priorities=True)
answered: list[str] = []


@app.task(queue=tickets)
async def answer(ticket: str) -> None:
    answered.append(ticket)


async def main() -> None:
    sent = [("newsletter", 0), ("question", 3), ("outage", 9), ("second question", 3), ("survey", 0)]
    handles = [await answer.options(priority=priority).enqueue_async(ticket) for ticket, priority in sent]
    async with worker(app, concurrency=1):
        for handle in handles:
            await handle.get_result_async(timeout=10)
    assert answered == ["outage", "question", "second question", "newsletter", "survey"], answered
    print("answered:", ", ".join(answered))
    try:
        Queue("ledger", parallelism=1, priorities=True)
    except InvalidQueue as error:
        print(error)
    else:
        raise AssertionError("priorities were accepted on a FIFO queue")


if __name__ == "__main__":
    asyncio.run(main())
