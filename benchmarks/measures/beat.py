"""A beat with 10,000 schedules of one tick a minute: its CPU, and how late its messages are with a consumer.

The crons are spread over the seconds of the minute (167 ticks a second, together at the second), or over all of its
milliseconds by jitter (167 a second, each alone), or are all of the same second. The driver consumes the queue and
compares each message's arrival with the instant that its tick was for, on the same clock.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from datetime import datetime
from typing import Any

from benchmarks.board import Board
from benchmarks.contestants import taskq
from benchmarks.measure import Measure
from benchmarks.processes import ContestantFailed
from benchmarks.stage import Stage

_SCHEDULES = 10_000
_AHEAD = 15.0  # seconds from the start of a beat to the second of all: it has read its app and brought up the store
_EDGE = 3.0  # seconds at either end of what is heard in which ticks are not looked for
_JITTER = 0.999  # seconds
_SPAN = 60.0  # seconds of warming up, and as many that are measured; half in short rounds


async def produce(peer: Any, board: Board, step: str, seconds: float = 0.0, jitter: float = 0.0) -> dict[str, Any]:
    """Consume the queue for so long, or until the first message or the last of all; only taskq's peer knows them."""
    import aio_pika

    from taskq.message import CONTENT_TYPE, decode
    from taskq.schedule import INSTANT_HEADER, SCHEDULE_HEADER
    from taskq.timetable import Cron, Plan

    plans = {f"s{n}": Plan(Cron(f"{n % 60} * * * * *"), jitter=jitter) for n in range(_SCHEDULES if jitter else 0)}
    heard: list[tuple[float, datetime, str]] = []  # arrival, instant of the tick, schedule
    enough = asyncio.Event()
    most = {"first": 1, "all": _SCHEDULES}.get(step)

    async def note(incoming: Any) -> None:
        arrival, message = time.time(), decode(incoming.body, CONTENT_TYPE)
        instant = message.headers.get(INSTANT_HEADER)
        if instant is not None:  # else it is the one that made the queue
            heard.append((arrival, datetime.fromisoformat(instant), message.headers[SCHEDULE_HEADER]))
        if most is not None and len(heard) >= most:
            enough.set()

    connection = await aio_pika.connect(peer.broker)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(peer.queue)
        began = time.time()
        await queue.consume(note, no_ack=True)
        async with asyncio.timeout(120):
            await (asyncio.sleep(seconds) if most is None else enough.wait())
        ended = time.time()
    due = [(plans[id].fires_at(id, instant) if jitter else instant).timestamp() for _, instant, id in heard]
    late = sorted((one[0] - at) * 1000 for one, at in zip(heard, due, strict=True))
    ticks = Counter((instant.timestamp(), id) for _, instant, id in heard)
    return {"seconds": ended - began, "late": late, **_ledger(ticks, began, ended)}


def _ledger(ticks: Counter[tuple[float, str]], began: float, ended: float) -> dict[str, int]:
    """How many ticks came twice, and how many of the spread schedules' did not come at all."""
    first, last = int(began + _EDGE) + 1, int(ended - _EDGE)
    sure = sum(first <= instant <= last for instant, _ in ticks)
    of_second = Counter(number % 60 for number in range(_SCHEDULES))
    due = sum(of_second[second % 60] for second in range(first, last + 1))
    return {"twice": sum(count - 1 for count in ticks.values()), "missing": due - sure}


def _beat(stage: Stage, **settings: float) -> None:
    """Start one; the queue is there already, and empty."""
    stage.produce("warm", count=1)
    stage.empty()
    given = [f"TASKQ_BENCH_{name.upper()}={value}" for name, value in {"schedules": _SCHEDULES, **settings}.items()]
    stage.start_another(["env", *given, sys.executable, "-m", "taskq", "beat", "benchmarks.peers.beat_app:app"])


def _spread(stage: Stage, jitter: float = 0.0) -> dict[str, float]:
    """Per cent of a core, and milliseconds late, when each schedule has been read once."""
    _beat(stage, jitter=jitter)
    stage.produce("beat", step="first")
    span = _SPAN if stage.scale.seconds >= 1 else _SPAN / 2
    stage.produce("beat", step="while", seconds=span)
    answer = _whole(stage.produce("beat", step="while", seconds=span, jitter=jitter))
    late, count = answer["late"], len(answer["late"])
    return {
        "cpu": answer["worker_cpu"] / answer["seconds"] * 100,
        "late_p50": late[count // 2],
        "late_p99": late[count * 99 // 100],
        "late_most": late[-1],
        "ticks_per_s": count / answer["seconds"],
        "worker_cpu_us": answer["worker_cpu"] / count * 1e6,
        "broker_cpu_us": answer["broker_cpu"] / count * 1e6,
    }


def _jittered(stage: Stage) -> dict[str, float]:
    """The same; how late is counted from the tick and its share of the jitter."""
    return _spread(stage, _JITTER)


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    """The same, if each tick came once."""
    if answer["twice"] or answer["missing"]:
        raise ContestantFailed(f"{answer['twice']} ticks came twice, {answer['missing']} not at all")
    return answer


def _at_once(stage: Stage) -> dict[str, float]:
    """Milliseconds until half and all of them have arrived."""
    _beat(stage, second=int(time.time() + _AHEAD) % 60)
    answer = stage.produce("beat", step="all")
    late, count = answer["late"], len(answer["late"])
    return {
        "late_p50": late[count // 2],
        "late_most": late[-1],
        "rate": count / (late[-1] - late[0]) * 1000,
    }


_WHO = (taskq("taskq, SQLite"), taskq("taskq, PostgreSQL", "postgres"))
SPREAD = Measure(
    "beat",
    "a beat, 10,000 schedules over the minute",
    "% of a core",
    _WHO,
    _spread,
    figure="cpu",
    lower=True,
    once=True,
)
JITTERED = Measure(
    "beat_jitter",
    "a beat, the same with jitter",
    "% of a core",
    _WHO,
    _jittered,
    figure="cpu",
    lower=True,
    once=True,
    named=True,
)
AT_ONCE = Measure(
    "beat_at_once",
    "a beat, 10,000 schedules in one second",
    "ms",
    _WHO,
    _at_once,
    figure="late_most",
    lower=True,
    named=True,
)
