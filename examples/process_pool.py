"""A process of its own: for work that would block the others, or may crash, or must be killed.

python examples/process_pool.py
"""

import asyncio
import os
import signal
import time

from running import an_app, worker

from taskq import TaskFailed

app = an_app()


@app.task(pool="process")
def primes(below: int) -> tuple[int, int]:
    found = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))
    return found, os.getpid()


@app.task(pool="process", retry=0)
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task(pool="process", timeout=0.5, retry=0)
def spin() -> None:
    while True:
        time.sleep(0.01)


async def main() -> None:
    async with worker(app, app_ref="process_pool:app"):  # `taskq worker process_pool:app` says it by itself
        found, process = await (await primes.enqueue_async(10_000)).get_result_async(timeout=30)
        assert found == 1229 and process != os.getpid()
        print(f"{found} primes, counted in a process of its own")
        for task in (crash, spin):
            try:
                await (await task.enqueue_async()).get_result_async(timeout=30)
            except TaskFailed as failed:
                print(f"{task.name}: {failed}")
            else:
                raise AssertionError(f"{task} should have failed")


if __name__ == "__main__":
    asyncio.run(main())
