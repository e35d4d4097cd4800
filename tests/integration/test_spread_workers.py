"""FIFO queues, lanes and slots spread over workers that join later, and nothing is reordered by it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict

import pytest

from taskq import Queue
from taskq.queue import lane_of
from tests.integration.harness import Span, Station, assert_in_order, most_at_once
from tests.support import eventually

pytestmark = pytest.mark.anyio

JOIN_EVERY = 5.0  # seconds
SPREAD_WITHIN = 10.0  # seconds
CALM = 1.5  # seconds in which nothing may move once all is spread


def holders(spans: list[Span], since: float) -> dict[str, set[int]]:
    """queue -> the workers that ran something of it from an instant on."""
    who: dict[str, set[int]] = defaultdict(set)
    for span in spans:
        if span.start >= since:
            who[span.event.queue].add(span.event.pid)
    return who


async def test_fifo_queues_spread_over_workers_that_join(station: Station) -> None:
    """Of 12 FIFO queues, each of 3 workers that join 5 s apart runs 3 to 5 within 10 s; every queue keeps its order."""
    queues = [Queue(f"line-{index:02d}", parallelism=1) for index in range(12)]
    names = [queue.name for queue in queues]
    await station.ensure(*queues)
    first = station.start(names)
    for queue in queues:
        await station.send(queue, [{"number": i, "seconds": 0.12} for i in range(180)])
    await first.ready()
    began = time.monotonic()
    for joined in (1, 2):
        await asyncio.sleep(began + joined * JOIN_EVERY - time.monotonic())  # the joins are 5 s apart
        await station.start(names).ready()
    last_joined = time.time()

    def spread() -> list[int] | None:
        who = holders(station.spans(), time.time() - 0.4)
        active = Counter(pid for pids in who.values() for pid in pids)
        return sorted(active.values()) if len(active) == 3 and min(active.values()) >= 3 else None

    await station.log.until(lambda: (spread() or [9])[-1] <= 5, SPREAD_WITHIN)
    tolerable = time.time() - last_joined
    await station.log.until(lambda: spread() == [4, 4, 4], SPREAD_WITHIN - tolerable)
    even = time.time()
    print(f"12 FIFO queues, 3 workers: 3 to 5 each after {tolerable:.1f} s, 4 each after {even - last_joined:.1f} s")
    await eventually(lambda: time.time() > even + CALM)
    spans = station.spans()
    assert all(len(pids) == 1 for pids in holders(spans, even).values()), "a queue went on circling"
    for name in names:
        mine = [span for span in spans if span.event.queue == name]
        assert_in_order(mine)
        assert len({span.event.number for span in mine}) == len(mine), "a hand-over ran a message twice"


async def test_slots_of_a_limited_queue_spread_over_workers_that_join(station: Station) -> None:
    """Six slots belong to one worker, then to two by three, then to three by two, and are in use all the time."""
    queue = Queue("six", parallelism=6)
    await station.ensure(queue)
    await station.send(queue, [{"number": i, "seconds": 0.06} for i in range(1500)])
    for workers in (1, 2, 3):
        await station.start_ready(1, ["six"])
        joined = time.time()

        def shares() -> list[int] | None:
            since = time.time() - 0.6
            by_worker: dict[int, list[Span]] = defaultdict(list)
            for span in station.spans():
                if span.end > since:
                    by_worker[span.event.pid].append(span)
            most = sorted(most_at_once(spans) for spans in by_worker.values())
            return most if most == [6 // workers] * workers else None  # noqa: B023 - awaited here

        await station.log.until(shares, SPREAD_WITHIN)
        print(f"6 slots, {workers} workers: spread {time.time() - joined:.1f} s after the join")
    assert most_at_once(station.spans()) == 6


async def test_lanes_keep_the_order_of_each_key_through_a_kill(station: Station) -> None:
    """Over 3 workers 8 lanes run side by side, each key's messages in order, through the kill of a worker."""
    queue = Queue("accounts", parallelism=1, partitions=8)
    keys = two_keys_a_lane(8)
    await station.ensure(queue)
    steps = [{"number": i, "seconds": 0.03, "key": key, "fails": int(i % 10 == 7)} for i in range(90) for key in keys]
    await station.start_ready(3, ["accounts"])
    handles = await station.send(queue, steps)
    sent = time.time()

    def shares() -> bool:
        since = time.time() - 0.4
        lanes = {(span.event.pid, lane_of(span.event.key, 8)) for span in station.spans() if span.start > since}
        return sorted(Counter(pid for pid, _ in lanes).values()) == [2, 3, 3]

    await station.log.until(shares, SPREAD_WITHIN)
    print(f"8 lanes, 3 workers: spread after {time.time() - sent:.1f} s")
    station.worker(station.log.of("start")[-1].pid).kill()
    assert await station.all_recorded(handles) == {"SUCCEEDED": len(steps)}
    spans = station.spans()
    for key in keys:
        assert_in_order([span for span in spans if span.event.key == key])
    assert most_at_once(spans) == 8
    for lane in range(8):
        assert most_at_once(span for span in spans if lane_of(span.event.key, 8) == lane) == 1


def two_keys_a_lane(lanes: int) -> list[str]:
    """Keys that fill all lanes alike."""
    by_lane: dict[int, list[str]] = defaultdict(list)
    for index in range(1000):
        by_lane[lane_of(f"customer-{index}", lanes)].append(f"customer-{index}")
    return [key for lane in range(lanes) for key in by_lane[lane][:2]]
