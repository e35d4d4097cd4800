"""Order by key: messages of one customer keep their order, customers run side by side.

python examples/lanes.py
"""

import asyncio
from collections import defaultdict

from running import an_app, worker

from taskq import InvalidSetting, Queue

app = an_app()
orders = Queue("orders", parallelism=1, partitions=8)
done: dict[str, list[int]] = defaultdict(list)
at_once = {"now": 0, "most": 0}


@app.task(queue=orders)
async def ship(customer: str, number: int) -> None:
    at_once["now"] += 1
    at_once["most"] = max(at_once["most"], at_once["now"])
    await asyncio.sleep(0.02)
    at_once["now"] -= 1
    done[customer].append(number)


async def main() -> None:
    customers = ["ada", "bert", "cleo", "dora"]
    async with worker(app):
        messages = [ship.options(key=who).message(who, number) for number in range(10) for who in customers]
        for handle in await app.enqueue_many_async(messages):
            await handle.get_result_async(timeout=10)
        try:
            await ship.enqueue_async("eve", 1)
        except InvalidSetting as error:
            print("without a key:", error)
        else:
            raise AssertionError("a partitioned queue took a message without a key")
    assert all(done[who] == list(range(10)) for who in customers), done
    assert at_once["most"] > 1
    print(f"each of {len(customers)} customers in order, up to {at_once['most']} at once")


if __name__ == "__main__":
    asyncio.run(main())
