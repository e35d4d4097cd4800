"""Flow control by key: each tenant's messages share limits, and no tenant waits behind another's backlog.

python examples/flow_control.py
"""

import asyncio
from collections import Counter

from running import an_app, worker

from taskq import RateLimit

app = an_app()
running: Counter[str] = Counter()
most: Counter[str] = Counter()
order: list[str] = []


@app.task
async def export(tenant: str, number: int) -> None:
    order.append(tenant)
    running[tenant] += 1
    most[tenant] = max(most[tenant], running[tenant])
    await asyncio.sleep(0.05)
    running[tenant] -= 1


async def main() -> None:
    acme = export.options(flow_key="acme", flow_parallelism=2)
    small = export.options(flow_key="small", flow_parallelism=1, flow_rate=RateLimit(20, per=1))
    async with worker(app):
        handles = await app.enqueue_many_async([acme.message("acme", number) for number in range(40)])
        late = await small.enqueue_async("small", 0)
        await late.get_result_async(timeout=20)
        assert order.count("acme") < 40  # it did not wait for the others
        for handle in handles:
            await handle.get_result_async(timeout=20)
    assert most == {"acme": 2, "small": 1}, most
    print(f"40 messages of acme, two at a time; small's began when {order.index('small')} of them had begun")


if __name__ == "__main__":
    asyncio.run(main())
