"""How cost grows: with worker processes, backlog, payload, queues in one worker, and messages that wait for their time.

A point is one run of taskq at one value. Its figures: the rate, CPU microseconds per message of everybody, and memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import settings
from benchmarks.board import Board
from benchmarks.contestants import Contestant, taskq
from benchmarks.measures import backlog, drain
from benchmarks.processes import memory_mb, wait_until
from benchmarks.stage import Stage

Figures = dict[str, float]

_WINDOW_BYTES = 8_000_000  # of one window of `enqueue_many`
_WINDOW = 2_000
_READ = 60_000  # messages of a backlog over which its drain is timed
_LATE = 20_000  # messages that fall due, 2,000 a second
_MANY = 20_000  # messages over many queues
_TIMEOUT = 120.0  # seconds for what a point waits for


@dataclass(frozen=True, slots=True)
class Point:
    """One value on one axis.

    axis, value  str, int: its name is `axis/value`
    run          the figures of one run
    contestant   Contestant, with which settings
    rounds       int, runs; their medians are kept
    """

    axis: str
    value: int
    run: Callable[[Stage, int], Figures]
    contestant: Contestant
    rounds: int = 1

    @property
    def name(self) -> str:
        return f"{self.axis}/{self.value}"


# -- in the driver --------------------------------------------------------------------------------


def produce(peer: Any, board: Board, step: str, count: int = 0, size: int = 0, queues: int = 0) -> dict[str, Any]:
    """One step of a point; only taskq's peer knows them."""
    match step:
        case "fill":
            begin = time.perf_counter()
            _fill(peer, count, size, queues)
            return {"seconds": time.perf_counter() - begin}
        case "worker":
            names = [_queue_name(number) for number in range(queues)]
            return {"command": peer.worker_command(1, ",".join(names)), "queues": [_on_broker(name) for name in names]}
    return {}


def _queue_name(number: int) -> str:
    return f"{settings.NAME}-many-{number}"


def _on_broker(name: str) -> str:
    from benchmarks.peers.taskq_peer import app
    from taskq.broker.base import BrokerQueue, Kind
    from taskq.broker.topology import Names

    return Names(app.settings.prefix).queue(BrokerQueue(Kind.TASK, name))


def _fill(peer: Any, count: int, size: int, queues: int) -> None:
    from benchmarks.peers.taskq_peer import app, bench
    from taskq import Queue

    label = "x" * size if size else settings.LABEL
    targets = [bench.options(queue=Queue(_queue_name(number))) for number in range(queues)] or [bench]
    window = max(1, min(_WINDOW, _WINDOW_BYTES // max(size, 1)))
    for start in range(0, count, window):
        numbers = range(start, min(start + window, count))
        app.enqueue_many([targets[number % len(targets)].message(-1, label) for number in numbers])


# -- in the runner --------------------------------------------------------------------------------


def _timed(stage: Stage, count: int, most: int, start: Callable[[], None]) -> Figures:
    """Start a worker on a filled queue; what `most` of the `count` messages took, from its first task on."""
    stage.board.clear()
    start()
    wait_until(lambda: stage.board.count() > 0, _TIMEOUT, "the first task", stage.workers)
    begin, first = _costs(stage), stage.board.count()
    goal = min(count, first + most)
    wait_until(lambda: stage.board.count() >= goal, _TIMEOUT, f"task {goal}", stage.workers)
    end, done = _costs(stage), stage.board.count() - first
    figures = {"rate": done / (end["at"] - begin["at"]), "count": float(done)}
    for name in ("worker", "broker", "store"):
        figures[f"{name}_cpu_us"] = (end[name] - begin[name]) / done * 1e6
    return figures | memory(stage)


def _costs(stage: Stage) -> Figures:
    costs = {"worker": stage.worker_cpu(), "broker": stage.broker_cpu(), "store": stage.store_cpu()}
    return costs | {"at": time.monotonic()}


def memory(stage: Stage) -> Figures:
    """Megabytes of workers and broker, and of PostgreSQL where it is used (shared pages once)."""
    found = {"worker_mb": sum(memory_mb(worker.pid)["rss"] for worker in stage.workers)}
    if stage.broker_pid:
        found["broker_mb"] = memory_mb(stage.broker_pid)["rss"]
    if stage.store_pid:
        found["store_mb"] = memory_mb(stage.store_pid)["pss"]
    return found


def _processes(stage: Stage, value: int) -> Figures:
    return drain.drain(stage, value) | {name: mb for name, mb in memory(stage).items() if name != "worker_mb"}


def _backlog(stage: Stage, value: int) -> Figures:
    sent = stage.produce("scale", step="fill", count=value)
    stage.driver.ask("leave")
    figures = _timed(stage, value, _READ, lambda: stage.start_workers(1))
    return figures | {"send_rate": value / sent["seconds"]}


def _payload(stage: Stage, value: int) -> Figures:
    count = max(100, min(20_000, 100_000_000 // value))
    sent = stage.produce("scale", step="fill", count=count, size=value)
    stage.driver.ask("leave")
    sending = {"send_rate": count / sent["seconds"], "sender_cpu_us": sent["cpu"] / count * 1e6}
    return _timed(stage, count, count, lambda: stage.start_workers(1)) | sending


def _queues(stage: Stage, value: int) -> Figures:
    worker = stage.produce("scale", step="worker", queues=value)
    stage.description["queues"] += worker["queues"]  # to be deleted afterwards
    stage.produce("scale", step="fill", count=value, queues=value)  # declares them
    stage.produce("scale", step="fill", count=_MANY, queues=value)
    stage.driver.ask("leave")

    def start() -> None:
        stage.start_another(worker["command"])

    return _timed(stage, _MANY + value, _MANY, start)


def _waiting(stage: Stage, value: int) -> Figures:
    stage.start_ready_workers(1)
    before = memory(stage)
    begin = time.monotonic()
    stage.produce("backlog", step="delayed", count=value)
    sent = time.monotonic() - begin
    backlog.wait_booked(stage, value, timeout=420)
    booked = time.monotonic() - begin
    beside, costs = memory(stage), _costs(stage)
    count = min(_LATE, max(value, 1_000))
    late = backlog.lateness(stage, count)
    after = _costs(stage)
    released = {f"{name}_cpu_us": (after[name] - costs[name]) / count * 1e6 for name in ("worker", "broker", "store")}
    booking = {"send_rate": value / sent, "book_rate": value / booked, "count": float(count)}
    return booking | late | released | beside | {f"{name}_before": mb for name, mb in before.items()}


def _points() -> Sequence[Point]:
    plain = taskq("taskq")
    lite = taskq("taskq, recorded in SQLite", record=True)
    postgres = taskq("taskq, recorded in PostgreSQL", "postgres", record=True)
    return (
        *(Point("processes", value, _processes, plain, rounds=3) for value in (1, 2, 4)),
        *(Point("processes_sqlite", value, _processes, lite, rounds=2) for value in (1, 2, 4)),
        *(Point("processes_postgres", value, _processes, postgres, rounds=2) for value in (1, 2, 4)),
        *(Point("payload", value, _payload, plain) for value in (100, 1_000, 10_000, 100_000, 1_000_000)),
        *(Point("queues", value, _queues, plain) for value in (1, 10, 100, 1_000)),
        *(Point("waiting", value, _waiting, postgres) for value in (10_000, 100_000, 1_000_000)),
        *(Point("backlog", value, _backlog, plain) for value in (1_000, 10_000, 100_000, 1_000_000)),
    )


POINTS = tuple(_points())
