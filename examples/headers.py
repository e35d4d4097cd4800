"""Headers travel beside the arguments; `current()` tells a task about its own run.

python examples/headers.py
"""

import asyncio

from running import an_app, worker

from taskq import current

app = an_app()


@app.task(name="invoices.print", queue="paper")
async def print_invoice(number: int) -> dict[str, str]:
    context = current()
    return {
        "id": context.id,
        "task": context.task,
        "queue": context.queue,
        "attempt": str(context.attempt),
        "trace": context.headers["trace-id"],
    }


async def main() -> None:
    async with worker(app):
        handle = await print_invoice.options(headers={"trace-id": "4711"}, id="invoice-9").enqueue_async(9)
        told = await handle.get_result_async(timeout=10)
    expected = {"id": "invoice-9", "task": "invoices.print", "queue": "paper", "attempt": "1", "trace": "4711"}
    assert told == expected, told
    print(told)
    try:
        current()
    except RuntimeError as error:
        print("outside of a task:", error)
    else:
        raise AssertionError("there is no current task here")


if __name__ == "__main__":
    asyncio.run(main())
