"""A limit over all processes: never exceeded, used in full, changed while it is in use."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from taskq import Handle, Queue, Retry
from tests.integration.harness import Span, Station, assert_in_order, levels, most_at_once, utilisation
from tests.support import pulse

pytestmark = pytest.mark.anyio

USED = 0.15  # the least share of a limit, on a machine that is busy with other tests
HEARD = 0.3  # seconds that a lowered limit needs to reach the holders of its slots


async def test_a_limit_holds_and_is_used_in_full_while_workers_are_killed(station: Station) -> None:
    """Of a queue with parallelism 5, 4 processes run 5 at once and never more, through 8 SIGKILLs."""
    queue = Queue("pool", parallelism=5)
    await station.ensure(queue)
    await station.start_ready(4, ["pool"])
    handles = await station.send(queue, [{"number": i, "seconds": 0.1} for i in range(400)])
    for kill in range(8):
        await station.log.until(lambda: len(station.log.done()) >= 45 * (kill + 1))  # noqa: B023 - awaited here
        station.worker(station.log.of("start")[-1].pid).kill()
        station.start(["pool"])
    counts = await station.all_recorded(handles, 60)
    spans = station.spans(queue="pool")
    share = utilisation(spans, spans[0].start, spans[-5].start, 5)
    recovery = [_full_again(spans, at, 5) for at in station.deaths().values()]
    print(f"pool of 5: {len(spans)} attempts, {share:.0%} used, full again within {max(recovery):.2f} s of a kill")
    assert counts == {"SUCCEEDED": 400}
    assert most_at_once(spans) == 5
    assert share > USED
    assert max(recovery) < 10 + pulse.lost()
    assert len({span.event.pid for span in spans}) > 4


def _full_again(spans: list[Span], since: float, limit: int) -> float:
    """Seconds after an instant until the limit was used in full."""
    return next((at - since for at, level in levels(spans) if at > since and level == limit), float("inf"))


async def test_a_limit_changed_while_running_holds_at_once_and_is_used_in_full(station: Station) -> None:
    """Parallelism 5, 2, 7, 1, 4: moments after each change nothing starts above it, and all of it is used."""
    queue = Queue("valve", parallelism=5)
    await station.ensure(queue)
    await station.start_ready(3, ["valve"])
    handles = await station.send(queue, [{"number": i, "seconds": 0.05} for i in range(400)])
    await station.log.until(lambda: len(station.log.done()) >= 40)
    phases = []
    for limit in (2, 7, 1, 4):
        await station.limit("valve", limit)
        changed = time.time()
        await station.log.until(lambda: _running(station) == limit)  # noqa: B023 - awaited here
        done = len(station.log.done())
        await station.log.until(lambda: len(station.log.done()) >= done + 8 * limit)  # noqa: B023 - awaited here
        phases.append((limit, changed, time.time()))
    counts = await station.all_recorded(handles, 60)
    spans, heard = station.spans(queue="valve"), HEARD + pulse.lost()
    for limit, since, until in phases:
        # Whoever holds a slot that goes hears of it within moments, and starts nothing from then on.
        reached = _full_again(spans, since, limit)
        steady = [span for span in spans if span.start < until]
        share = utilisation(steady, since + reached, until, limit)
        print(f"limit {limit}: reached after {reached:.2f} s, {share:.0%} used")
        assert [
            span for span in spans if since + heard < span.start < until and _level(spans, span.start) > limit
        ] == []
        assert share > USED
    assert counts == {"SUCCEEDED": 400}
    assert most_at_once(spans) == 7


def _running(station: Station) -> int:
    return sum(span.end == float("inf") for span in station.spans(queue="valve"))


def _level(spans: list[Span], at: float) -> int:
    """How many run at an instant, one that starts then included."""
    return sum(span.start <= at < span.end for span in spans)


async def test_a_retry_on_a_limited_queue_leaves_its_slot(station: Station) -> None:
    """While two messages wait for their retry, the two slots of their queue run all others."""
    queue = Queue("leaving", parallelism=2)
    handles = await _fail_two_before_eight(station, queue, 3600)
    await station.start_ready(1, ["leaving"])
    assert await station.all_recorded(handles[2:]) == {"SUCCEEDED": 8}
    store = await station.store()
    for handle in handles[:2]:
        assert await store.reschedule(handle.id, await store.now())
    assert await station.all_recorded(handles) == {"SUCCEEDED": 10}
    assert most_at_once(station.spans()) == 2


async def test_a_retry_in_place_keeps_its_slot(station: Station) -> None:
    """With retry_in_place two messages that wait for their retry keep both slots: nothing else starts before."""
    queue = Queue("staying", parallelism=2, retry_in_place=True)
    handles = await _fail_two_before_eight(station, queue, 0.8)
    await station.start_ready(1, ["staying"])
    assert await station.all_recorded(handles) == {"SUCCEEDED": 10}
    failed = [event.at for event in station.log.of("fail")]
    others = [event.at for event in station.log.of("start") if event.number > 1]
    assert len(failed) == 2 and len(others) == 8
    assert min(others) >= min(failed) + 0.79, "a slot went on without its message"


async def _fail_two_before_eight(station: Station, queue: Queue, delay: float) -> list[Handle[Any]]:
    await station.ensure(queue)
    steps = [{"number": i, "seconds": 0.02, "fails": int(i < 2)} for i in range(10)]
    return await station.send(queue, steps, retry=Retry(delay=delay))


async def test_a_fifo_queue_raised_to_four_runs_four_at_a_time(station: Station) -> None:
    """A queue born FIFO runs one at a time until it is given parallelism 4, and four afterwards."""
    queue = Queue("risen", parallelism=1)
    await station.ensure(queue)
    await station.start_ready(2, ["risen"])
    handles = await station.send(queue, [{"number": i, "seconds": 0.05} for i in range(100)])
    await station.log.until(lambda: len(station.log.done()) >= 8)
    before = station.spans()
    await station.limit("risen", 4)
    changed = time.time()
    assert await station.all_recorded(handles) == {"SUCCEEDED": 100}
    spans = station.spans()
    full = _full_again(spans, changed, 4)
    share = utilisation(spans, changed + full, spans[-4].start, 4)
    print(f"FIFO raised to 4: 4 at once after {full:.2f} s, {share:.0%} used")
    assert_in_order(before)
    assert most_at_once(spans) == 4
    assert full < 10 + pulse.lost() and share > USED


async def test_a_limited_queue_lowered_to_one_keeps_order_through_a_stop(station: Station) -> None:
    """After parallelism 3 has become 1, messages run one at a time and in order, also when their worker stops."""
    queue = Queue("narrowed", parallelism=3)
    await station.ensure(queue)
    await station.start_ready(2, ["narrowed"])
    handles = await station.send(queue, [{"number": i, "seconds": 0.03} for i in range(30)])
    await station.log.until(lambda: len(station.log.done()) >= 10)
    await station.limit("narrowed", 1)
    assert await station.all_recorded(handles) == {"SUCCEEDED": 30}
    handles = await station.send(queue, [{"number": i, "seconds": 0.02} for i in range(100, 160)])
    await station.log.until(lambda: len(station.log.done()) >= 50)
    stopped = station.worker(station.log.of("start")[-1].pid)
    stopped.terminate()
    assert await station.all_recorded(handles) == {"SUCCEEDED": 60}
    assert await stopped.ended() == 0
    spans = [span for span in station.spans() if span.event.number >= 100]
    assert_in_order(spans)
    assert len(spans) == 60 and len({span.event.pid for span in spans}) == 2


async def test_a_worker_takes_no_more_than_its_own_share_of_a_limit(station: Station) -> None:
    """With worker_parallelism 2 of 6, each of two workers runs 2 at once and never more, one with -c 1 one."""
    queue = Queue("bounded", parallelism=6, worker_parallelism=2)
    await station.ensure(queue)
    await asyncio.gather(station.start_ready(2, ["bounded"]), station.start_ready(1, ["bounded"], concurrency=1))
    handles = await station.send(queue, [{"number": i, "seconds": 0.05} for i in range(150)])
    assert await station.all_recorded(handles) == {"SUCCEEDED": 150}
    spans = station.spans()
    each = [most_at_once(span for span in spans if span.event.pid == worker.pid) for worker in station.workers]
    assert sorted(each) == [1, 2, 2]
    assert most_at_once(spans) == 5
