"""Time limits: the soft one is raised inside the task, so that it can tidy up; the hard one stops it.

python examples/time_limits.py
"""

import asyncio

from running import an_app, worker

from taskq import SoftTimeout, TaskFailed

app = an_app()


@app.task(soft_timeout=0.2, timeout=5)
async def search() -> str:
    best = "the best so far"
    try:
        await asyncio.sleep(60)
    except SoftTimeout:
        return best
    return "the best of all"


@app.task(timeout=0.2, retry=0)
async def hang() -> None:
    await asyncio.sleep(60)


async def main() -> None:
    async with worker(app):
        found = await (await search.enqueue_async()).get_result_async(timeout=10)
        assert found == "the best so far"
        print("soft limit:", found)
        # options(timeout=…) sets it for one message.
        for task in (hang, hang.options(timeout=0.1)):
            try:
                await (await task.enqueue_async()).get_result_async(timeout=10)
            except TaskFailed as failed:
                assert failed.type == "TimeoutError", failed.type
                print("hard limit:", failed.message)
            else:
                raise AssertionError("it should have been stopped")


if __name__ == "__main__":
    asyncio.run(main())
