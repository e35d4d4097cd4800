"""Too late is never: a message that could not start in time goes to the dead letters instead.

python examples/expiry.py
"""

import asyncio

from running import an_app, worker

from taskq import Queue, Status, TaskExpired

app = an_app()
radio = Queue("radio", parallelism=1)
heard: list[str] = []


@app.task(queue=radio)
async def announce(text: str, seconds: float = 0) -> None:
    heard.append(text)
    await asyncio.sleep(seconds)


async def main() -> None:
    async with worker(app):
        await announce.enqueue_async("a long speech", seconds=0.5)
        late = await announce.options(expires=0.2).enqueue_async("train leaves now")
        still = await announce.options(expires=60).enqueue_async("good night")
        try:
            await late.get_result_async(timeout=10)
        except TaskExpired as error:
            print("expired:", error)
        else:
            raise AssertionError("it should have expired")
        await still.get_result_async(timeout=10)
        assert await late.get_status_async() is Status.EXPIRED
    assert heard == ["a long speech", "good night"], heard
    print("heard:", ", ".join(heard))


if __name__ == "__main__":
    asyncio.run(main())
