"""Pause a queue and resume it, and change its limits, while workers run: `taskq queues`.

It needs RabbitMQ, for the commands are processes of their own:

    TASKQ_BROKER=amqp://guest:guest@localhost/ python examples/pause_resume.py
"""

import asyncio
import json
import time

from running import an_app, command, needs_rabbitmq, worker_processes

from taskq import Queue, ResultTimeout

if __name__ == "__main__":
    needs_rabbitmq()

app = an_app()
imports = Queue("imports", parallelism=2)


@app.task(queue=imports)
async def load(part: int) -> tuple[float, float]:
    began = time.time()
    await asyncio.sleep(0.2)
    return began, time.time()


def most_at_once(spans: list[tuple[float, float]]) -> int:
    return max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)


def main() -> None:
    with worker_processes("pause_resume:app", 2, "-q", "imports"), app:
        load.enqueue(0).get_result(timeout=30)
        print(command("queues", "pause", "imports"))
        handles = app.enqueue_many([load.message(part) for part in range(12)])
        try:
            handles[0].get_result(timeout=1)
        except ResultTimeout:
            (seen,) = [one for one in json.loads(command("queues", "list", "--json")) if one["name"] == "imports"]
            assert seen["paused"] and seen["ready"] == 12, seen
            print("nothing starts; 12 messages are kept")
        else:
            raise AssertionError("a paused queue ran a task")

        print(command("queues", "resume", "imports"))
        spans = [handle.get_result(timeout=30) for handle in handles]
        assert most_at_once(spans) == 2, most_at_once(spans)
        print(command("queues", "set", "imports", "--parallelism", "4"))
        spans = [handle.get_result(timeout=30) for handle in app.enqueue_many([load.message(i) for i in range(24)])]
        assert 2 < most_at_once(spans) <= 4, most_at_once(spans)
        print(f"2 at once before, {most_at_once(spans)} after")


if __name__ == "__main__":
    main()
