"""A result read by another process than the one that enqueued: its id is enough.

python examples/results_elsewhere.py                       the reader is a process, the worker is not
TASKQ_BROKER=amqp://… python examples/results_elsewhere.py      the worker is a process too
"""

import contextlib
import subprocess
import sys

from running import an_app, worker_processes, worker_thread

from taskq import TaskFailed

app = an_app()


@app.task
async def sum_up(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(retry=0)
async def divide(a: int, b: int) -> float:
    return a / b


def read(message_id: str) -> None:
    """What the other process does."""
    handle = app.handle(message_id)
    try:
        print("result", handle.get_result(timeout=20))
    except TaskFailed as failed:
        print("failed", failed.type, "in divide" if "in divide" in failed.traceback else "")
    print("status", handle.get_status())


def ask_another_process(message_id: str) -> str:
    return subprocess.run([sys.executable, __file__, message_id], check=True, capture_output=True, text=True).stdout


def main() -> None:
    embedded = app.settings.broker.startswith("memory:")
    serving: contextlib.AbstractContextManager[object]
    serving = worker_thread(app) if embedded else worker_processes("results_elsewhere:app", 1)
    with serving:
        handles = [sum_up.enqueue([1, 2, 3]), divide.enqueue(1, 0)]
        said = [ask_another_process(handle.id) for handle in handles]
    assert said[0] == "result 6\nstatus SUCCEEDED\n", said[0]
    assert said[1] == "failed ZeroDivisionError in divide\nstatus FAILED\n", said[1]
    print("another process says:", *said, sep="\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(sys.argv[1])
    else:
        main()
