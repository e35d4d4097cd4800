"""A worker beside a backlog: its memory, and how late delayed messages start.

One queue that the worker does not serve is filled (1,000,000 messages), a tenth as many wait for an
instant an hour ahead, and then 2,000 a second fall due on the queue that the worker serves. In the end a second
worker drains the full queue for a while. Memory is looked at every half second.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks import settings
from benchmarks.board import Board
from benchmarks.contestants import taskq
from benchmarks.measure import Measure
from benchmarks.processes import Child, memory_mb, wait_until
from benchmarks.stage import Stage

_PER_SECOND = 2_000
_LATE = 20_000  # messages that fall due
_WINDOW = 2_000
_FAR = 3600.0  # seconds


def produce(peer: Any, board: Board, step: str, count: int = 0) -> dict[str, Any]:
    """One step of the measurement; only taskq's peer knows them."""
    match step:
        case "bulk":
            _send(peer, count, lambda bench, bulk, number: bench.options(queue=bulk).message(-1, settings.LABEL))
        case "delayed":
            _send(peer, count, lambda bench, bulk, number: bench.options(delay=_FAR).message(-1, settings.LABEL))
        case "waiting":
            return {"count": peer.count("taskq_waiting")}
        case "late":
            return _send_late(peer, count)
        case "bulk_worker":
            from benchmarks.peers.taskq_peer import bulk

            return {"command": peer.worker_command(1, bulk.name)}
    return {}


def _send(peer: Any, count: int, make: Any) -> None:
    from benchmarks.peers.taskq_peer import app, bench, bulk

    for start in range(0, count, _WINDOW):
        app.enqueue_many([make(bench, bulk, number) for number in range(start, min(start + _WINDOW, count))])


def _send_late(peer: Any, count: int) -> dict[str, Any]:
    """Messages that fall due at an even pace, from an instant by which all are booked."""
    first = datetime.now(UTC) + timedelta(seconds=5 + count / 4_000)
    wall, monotonic = datetime.now(UTC), time.monotonic_ns()
    step = timedelta(seconds=1 / _PER_SECOND)
    _send(
        peer,
        count,
        lambda bench, bulk, number: bench.options(not_before=first + number * step).message(number, settings.LABEL),
    )
    return {"first_ns": monotonic + int((first - wall).total_seconds() * 1e9)}


class _Watch:
    """Notes the largest resident memory of a worker, every half second, until it is stopped."""

    def __init__(self, worker: Child) -> None:
        self.most = 0.0
        self._worker = worker
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.5):
            self.most = max(self.most, memory_mb(self._worker.pid)["rss"])

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self.most


def run(stage: Stage) -> dict[str, float]:
    """Megabytes before and beside the backlog, at most; milliseconds late."""
    stage.start_ready_workers(1)
    stage.produce("warm", count=200)
    stage.wait_count(220)
    time.sleep(1)
    before = memory_mb(stage.workers[0].pid)["rss"]
    watch = _Watch(stage.workers[0])
    backlog = stage.scale.backlog
    try:
        stage.produce("backlog", step="bulk", count=backlog)
        booking = time.monotonic()
        stage.produce("backlog", step="delayed", count=backlog // 10)
        sent = time.monotonic() - booking
        wait_booked(stage, backlog // 10)
        booked = time.monotonic() - booking
        late = lateness(stage, min(_LATE, backlog // 10))
    finally:
        most = watch.stop()
    figures = {
        "rss": most,
        "rss_before": before,
        "send_delayed_per_s": backlog / 10 / sent,
        "book_per_s": backlog / 10 / booked,
    }
    return figures | late | {"rss_draining": _draining(stage)}


def wait_booked(stage: Stage, count: int, timeout: float = 120) -> None:
    """Until so many messages are in the waiting room; looks seldom, for a look counts all of them."""
    deadline = time.monotonic() + timeout
    while (booked := stage.produce("backlog", step="waiting")["count"]) < count:
        for worker in stage.workers:
            worker.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{booked} of {count} messages are booked after {timeout} s")
        time.sleep(min(1.0, count / 1_000_000))


def lateness(stage: Stage, count: int) -> dict[str, float]:
    """Send so many that fall due 2,000 a second; milliseconds late."""
    answer = stage.produce("backlog", step="late", count=count)
    board = stage.board
    wait_until(
        lambda: all(board.stamp(number) for number in range(count - 1, -1, -1)), 90, f"{count} due tasks", stage.workers
    )
    due = [answer["first_ns"] + int(number * 1e9 / _PER_SECOND) for number in range(count)]
    late = sorted((board.stamp(number) - due[number]) / 1e6 for number in range(count))
    return {
        "late_p50": late[count // 2],
        "late_p99": late[count * 99 // 100],
        "late_most": late[-1],
        "early": float(sum(1 for each in late if each < 0)),
    }


def _draining(stage: Stage) -> float:
    """The largest memory of a worker that drains the full queue, for ten seconds or until it is empty."""
    command = stage.produce("backlog", step="bulk_worker")["command"]
    worker = stage.start_another(command)
    watch = _Watch(worker)
    done, deadline = stage.board.count(), time.monotonic() + 10
    while time.monotonic() < deadline and stage.board.count() < done + stage.scale.backlog:
        worker.check()
        time.sleep(0.1)
    return watch.stop()


_WHO = (taskq("taskq", record=True),)
MEASURE = Measure("backlog", "a worker beside a backlog", "MB, ms", _WHO, run, figure="rss", lower=True, once=True)
