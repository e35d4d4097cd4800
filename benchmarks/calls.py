"""What a message costs in calls: `python -m benchmarks.calls [WHAT…] [--broker URL] [--store URL]`.

System calls of taskq's own processes, counted by strace against a real broker and store: a process that is attached to
once it is warm, or a worker by the difference of two queues that it drained. And memory that Python allocates,
counted by valgrind in the work of `counted.py`, where the broker of paper's part is included. Counts, not times: a
traced process is slow, so that groups form otherwise than in a quick one; their sizes are the broker's to decide.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contestants import (
    TASKQ,
    TASKQ_ASYNC,
    TASKQ_HTTP_SQLITE,
    TASKQ_RESULT_SQLITE,
    TASKQ_SQLITE,
    Contestant,
)
from benchmarks.counted import WORKS
from benchmarks.instructions import allocations, need_valgrind
from benchmarks.processes import tree, wait_until
from benchmarks.services import Services
from benchmarks.stage import Scale, Stage

_SECONDS = 2.0
_TRIPS = 300
_FEW, _MANY = 2_000, 6_000  # messages of two drains
_REQUESTS = 500, 1_500
_GROUPS = {
    "write": "write writev pwrite64 sendto sendmsg",
    "read": "read readv pread64 recvfrom recvmsg",
    "wait": "epoll_wait epoll_pwait poll ppoll select",
    "wake": "futex eventfd2",
    "disk": "fsync fdatasync",
}
_GROUP_OF = {call: group for group, calls in _GROUPS.items() for call in calls.split()}
Calls = Counter[str]


def _summary(path: Path) -> Calls:
    """Calls by name, of strace's table."""
    found = Calls()
    for line in path.read_text().splitlines():
        match = re.fullmatch(r"\s*(\d+) (\w+)", line)
        if match and match[2] != "total":
            found[match[2]] += int(match[1])
    return found


def _strace(path: Path) -> list[str]:
    return ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-o", str(path)]


@contextmanager
def _traced(pid: int, path: Path) -> Iterator[None]:
    """The process is traced meanwhile."""
    tracer = subprocess.Popen([*_strace(path), "-p", str(pid)])
    try:
        wait_until(lambda: f"TracerPid:\t{tracer.pid}\n" in Path(f"/proc/{pid}/status").read_text(), 20, "strace", [])
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)


def _sender(measure: str) -> Callable[[Stage, Path], tuple[Calls, float]]:
    def run(stage: Stage, path: Path) -> tuple[Calls, float]:
        stage.produce("warm", count=200)
        with _traced(stage.driver.pid, path):
            sent = stage.produce(measure, seconds=_SECONDS)["count"]
        return _summary(path), sent

    return run


def _trips(who: str) -> Callable[[Stage, Path], tuple[Calls, float]]:
    def run(stage: Stage, path: Path) -> tuple[Calls, float]:
        stage.start_ready_workers(1)
        stage.produce("round_trip", samples=20)
        pid = stage.driver.pid if who == "sender" else stage.workers[0].pid
        with _traced(pid, path):
            stage.produce("round_trip", samples=_TRIPS)
        return _summary(path), _TRIPS

    return run


def _publishes(stage: Stage, path: Path) -> tuple[Calls, float]:
    server = stage.start_another(stage.produce("api_publish", step="server")["command"])
    stage.produce("api_publish", step="load", seconds=0.5)
    with _traced(server.pid, path):
        sent = stage.produce("api_publish", step="load", seconds=_SECONDS)["count"]
    return _summary(path), sent


def _drained(stage: Stage, path: Path, count: int) -> Calls:
    stage.board.clear()
    stage.empty()
    stage.fill(count)
    [command] = stage.driver.ask("describe", processes=1)["commands"]
    tracer = stage.start_another([*_strace(path), *command])
    stage.wait_count(count)
    if stage.settings.record:
        stage.driver.ask("recorded", count=count)
    time.sleep(1)  # of quiet, in each of the two
    os.kill(tree(tracer.pid)[1], signal.SIGTERM)  # the worker; strace itself goes on until it has written
    tracer.process.wait(20)
    stage.stop_workers()
    return _summary(path)


def _drain(stage: Stage, path: Path) -> tuple[Calls, float]:
    few, many = (_drained(stage, path, count) for count in (_FEW, _MANY))
    many.subtract(few)
    return many, _MANY - _FEW


def _deliveries(stage: Stage, path: Path) -> tuple[Calls, float]:
    found = []
    for count in _REQUESTS:
        with stage.endpoint():
            found.append(_drained(stage, path, count))
    few, many = found
    many.subtract(few)
    return many, _REQUESTS[1] - _REQUESTS[0]


_RUNS: dict[str, tuple[str, Contestant, Callable[[Stage, Path], tuple[Calls, float]]]] = {
    "one": ("enqueue, one by one", TASKQ, _sender("enqueue_one")),
    "one_async": ("enqueue_async, one by one", TASKQ_ASYNC, _sender("enqueue_one")),
    "at_once": ("enqueue_async, 100 at once", TASKQ_ASYNC, _sender("enqueue_at_once")),
    "many": ("enqueue_many, windows of 500", TASKQ, _sender("enqueue_many")),
    "drain": ("drain, nothing recorded", TASKQ, _drain),
    "recorded": ("drain, recorded in SQLite", TASKQ_SQLITE, _drain),
    "trip_sender": ("round trip, its sender", TASKQ_RESULT_SQLITE, _trips("sender")),
    "trip_worker": ("round trip, its worker", TASKQ_RESULT_SQLITE, _trips("worker")),
    "publish": ("HTTP publish, 100 connections, its server", TASKQ_HTTP_SQLITE, _publishes),
    "deliver": ("HTTP delivery, 16 at once, its worker", TASKQ_HTTP_SQLITE, _deliveries),
}


def _line(title: str, calls: Calls, messages: float) -> str:
    groups = Counter[str]()
    for call, count in calls.items():
        groups[_GROUP_OF.get(call, "other")] += count
    rest = Counter({call: count for call, count in calls.items() if call not in _GROUP_OF and count > 0.2 * messages})
    cells = [f"{groups[group] / messages:.2f}" for group in (*_GROUPS, "other")]
    cells.append(", ".join(call for call, _ in rest.most_common(3)))
    return f"| {title} | {sum(calls.values()) / messages:.2f} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=[[], *_RUNS], help="all without")
    parser.add_argument("--broker", metavar="URL", help="RabbitMQ to use instead of a private one")
    parser.add_argument("--store", metavar="URL", help="PostgreSQL to use instead of a private one")
    options = parser.parse_args()
    need_valgrind()
    print("| system calls a message | all | " + " | ".join((*_GROUPS, "other")) + " | most of it |")
    print("|---" * (len(_GROUPS) + 4) + "|")
    with tempfile.TemporaryDirectory(prefix="taskq-bench-") as name:
        folder = Path(name)
        with Services(folder, options.broker, options.store) as services:
            for what in options.what or _RUNS:
                title, contestant, run = _RUNS[what]
                with Stage(contestant, services, folder, Scale()) as stage:
                    print(_line(title, *run(stage, folder / "strace")), flush=True)
    print("\n| allocations a message | |\n|---|---|")
    with ThreadPoolExecutor(2) as pool:
        for title, count in zip(WORKS.values(), pool.map(allocations, WORKS), strict=True):
            print(f"| {title} | {count:.1f} |")


if __name__ == "__main__":
    main()
