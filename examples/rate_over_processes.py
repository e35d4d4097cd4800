"""A rate over several worker processes: 50 starts in any 30 s, however many workers there are.

It needs RabbitMQ, for workers of several processes share a broker:

    TASKQ_BROKER=amqp://guest:guest@localhost/ python examples/rate_over_processes.py
    … python examples/rate_over_processes.py --limit 10 --per 2 --starts 30        a short one
"""

import argparse
import os
import time

from running import an_app, needs_rabbitmq, worker_processes

from taskq import Queue, RateLimit

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--per", type=float, default=30.0)
    parser.add_argument("--starts", type=int, default=150)
    parser.add_argument("--processes", type=int, default=3)
    given = parser.parse_args()
    needs_rabbitmq()
    # The workers import this file: what they must know travels in the environment.
    os.environ |= {"EXAMPLE_LIMIT": str(given.limit), "EXAMPLE_PER": str(given.per)}

LIMIT = int(os.environ.get("EXAMPLE_LIMIT", "50"))
PER = float(os.environ.get("EXAMPLE_PER", "30"))

app = an_app()
api = Queue("api", rate_limit=RateLimit(LIMIT, per=PER))


@app.task(queue=api)
async def call(number: int) -> tuple[float, int]:
    return time.time(), os.getpid()


@app.task
async def ready() -> int:
    return os.getpid()


def main(starts: int, processes: int) -> None:
    with app, worker_processes("rate_over_processes:app", processes):
        seen: set[int] = set()
        while len(seen) < processes:  # all of them are up
            seen |= {handle.get_result(60) for handle in app.enqueue_many([ready.message() for _ in range(20)])}
        handles = app.enqueue_many([call.message(number) for number in range(starts)])
        runs = [handle.get_result(timeout=60 + PER * starts / LIMIT) for handle in handles]
    report(sorted(at for at, _ in runs), processes, len({process for _, process in runs}))


def report(starts: list[float], workers: int, active: int) -> None:
    gaps = [starts[i + LIMIT] - starts[i] for i in range(len(starts) - LIMIT)]
    first = starts[LIMIT - 1] - starts[0]
    whole = starts[-1] - starts[0]
    windows = (len(starts) - 1) // LIMIT
    print(f"{len(starts)} starts over {workers} workers ({active} took part), {LIMIT} per {PER:g} s")
    print(f"least start[i+{LIMIT}] - start[i]: {min(gaps):.3f} s")
    print(f"first {LIMIT} within {first:.3f} s; all within {whole:.2f} s ({windows * PER:g} s are the least possible)")
    assert min(gaps) >= PER
    assert first < PER / 2
    assert whole < windows * PER * 1.25 + 1


if __name__ == "__main__":
    main(given.starts, given.processes)
