"""Later: after some seconds, or at an instant. What waits is in the store: listed, changed, cancelled.

python examples/delays.py
"""

import asyncio
from datetime import UTC, datetime, timedelta

from running import an_app, worker

from taskq import Status

app = an_app()


@app.task
async def remind(text: str) -> datetime:
    return datetime.now(UTC)


async def main() -> None:
    async with worker(app):
        begin = datetime.now(UTC)
        long = await remind.options(delay=0.6).enqueue_async("sent first, due last")
        short = await remind.options(delay=timedelta(milliseconds=200)).enqueue_async("sent second, due first")
        at = await remind.options(not_before=begin + timedelta(seconds=0.4)).enqueue_async("at an instant")
        far = await remind.options(delay=300 * 86400).enqueue_async("in 300 days")
        ran = {handle: await handle.get_result_async(timeout=10) for handle in (short, at, long)}
        assert await far.get_status_async() is Status.WAITING
        assert await far.cancel_async()
    waited = [(ran[handle] - begin).total_seconds() for handle in (short, at, long)]
    assert waited == sorted(waited)
    for due, seconds in zip((0.2, 0.4, 0.6), waited, strict=True):
        assert due <= seconds < due + 0.5, (due, seconds)
        print(f"due after {due} s, ran within half a second of it")


if __name__ == "__main__":
    asyncio.run(main())
