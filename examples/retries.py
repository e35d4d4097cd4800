"""What a failing task can ask for: another attempt by its policy, at its own time, or none at all.

python examples/retries.py
"""

import asyncio

from running import an_app, worker

from taskq import Reject, Retry, RetryAfter, Snooze, TaskFailed, current

app = an_app()
attempts: dict[str, int] = {}


def count(name: str) -> int:
    attempts[name] = attempts.get(name, 0) + 1
    return attempts[name]


@app.task(retry=Retry(max_retries=4, delay="pow(2, retried) * 10", max_delay=1))  # 10 ms, 20 ms, 40 ms, …
async def flaky() -> int:
    if count("flaky") < 4:
        raise ConnectionError("not yet")
    return current().attempt


@app.task(retry=Retry(max_retries=5, delay=0.01, on=(ConnectionError,)))
async def broken() -> None:
    count("broken")
    raise ValueError("no retry helps here")


@app.task
async def polite() -> int:
    if count("polite") == 1:
        raise RetryAfter(0.05, "the other side asked for 50 ms")
    return current().attempt


@app.task
async def unready() -> int:
    if count("unready") < 3:
        raise Snooze(0.05)  # uses no attempt
    return current().attempt


@app.task
async def refused() -> None:
    count("refused")
    raise Reject("this address is on no map")


async def main() -> None:
    async with worker(app):
        assert await (await flaky.enqueue_async()).get_result_async(10) == 4
        assert await (await polite.enqueue_async()).get_result_async(10) == 2
        assert await (await unready.enqueue_async()).get_result_async(10) == 1
        for task, error in ((broken, "ValueError"), (refused, "taskq.errors.Reject")):
            try:
                await (await task.enqueue_async()).get_result_async(10)
            except TaskFailed as failed:
                assert failed.type == error, failed.type
                print(failed)
            else:
                raise AssertionError(f"{task} should have failed")
        # One enqueue may have a policy of its own.
        hurried = broken.options(retry=Retry(max_retries=1, delay=0.01))
        try:
            await (await hurried.enqueue_async()).get_result_async(10)
        except TaskFailed:
            pass
    assert attempts == {"flaky": 4, "polite": 2, "unready": 3, "broken": 1 + 2, "refused": 1}, attempts
    print(attempts)


if __name__ == "__main__":
    asyncio.run(main())
