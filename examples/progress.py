"""Progress for whoever looks, and heartbeats that say a long attempt is alive.

python examples/progress.py
"""

import asyncio

from running import an_app, worker

from taskq import TaskFailed, current

app = an_app()


@app.task
async def import_rows(rows: int) -> int:
    for done in range(rows):
        current().progress(done, rows)
        await asyncio.sleep(0.02)
    return rows


@app.task(timeout=0.4, retry=0)  # 0.4 s without a sign of life end the attempt
async def crawl(pages: int, beats: bool) -> int:
    for _ in range(pages):
        await asyncio.sleep(0.1)
        if beats:
            current().heartbeat()
    return pages


async def main() -> None:
    async with worker(app):
        handle = await import_rows.enqueue_async(150)
        seen = None
        while seen is None:
            await asyncio.sleep(0.05)
            record = await handle.info_async()
            seen = record.progress if record else None
        assert 0 < seen[0] < seen[1] == 150, seen
        assert await handle.get_result_async(timeout=10) == 150
        print("progress was seen on the way")

        assert await (await crawl.enqueue_async(8, beats=True)).get_result_async(timeout=10) == 8
        try:
            await (await crawl.enqueue_async(8, beats=False)).get_result_async(timeout=10)
        except TaskFailed as failed:
            assert failed.type == "TimeoutError", failed.type
            print("without heartbeats:", failed)
        else:
            raise AssertionError("the silent crawl should have been stopped")


if __name__ == "__main__":
    asyncio.run(main())
