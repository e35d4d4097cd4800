"""Order on FIFO queues: through failures, kills, joins, lanes and changed limits."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from taskq import Handle, Queue, Retry
from taskq.store.base import DeadFilter, DeadLetter, Store
from tests.integration.harness import Station, assert_in_order, longest_gap, most_at_once
from tests.integration.outcomes import Outcomes
from tests.support import pulse

pytestmark = pytest.mark.anyio

FIFO_MESSAGES = 500
FIFO_KILLS = 10


async def test_order_holds_while_attempts_fail_and_workers_are_killed(station: Station, outcomes: Outcomes) -> None:
    """500 messages run one at a time and in order, each recorded once, through 50 failures and 10 SIGKILLs."""
    queue = Queue("ledger", parallelism=1)
    steps = [{"number": i, "seconds": 0.008, "fails": int(i % 10 == 3)} for i in range(FIFO_MESSAGES)]
    await station.ensure(queue)
    await station.start_ready(3, ["ledger"])
    handles = await station.send(queue, steps)
    for kill in range(FIFO_KILLS):
        await station.log.until(lambda: len(station.log.done()) >= 45 * (kill + 1))  # noqa: B023 - awaited here
        station.worker(station.log.of("start")[-1].pid).kill()
        station.start(["ledger"])
    counts = await station.all_recorded(handles, 60)
    spans = station.spans(queue="ledger")
    print(f"FIFO: {len(spans)} attempts, longest gap {longest_gap(spans):.2f} s")
    assert counts == {"SUCCEEDED": FIFO_MESSAGES}
    assert most_at_once(spans) == 1
    assert_in_order(spans)
    assert len(station.log.of("fail")) >= FIFO_MESSAGES // 10
    assert outcomes.recorded() == {handle.id: 1 for handle in handles}


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_head_that_waits_for_its_retry_goes_to_the_next_worker(station: Station, how: str) -> None:
    """Its worker stops or dies while the head waits: the next one runs it when it is due, and then the others."""
    queue = Queue("patient", parallelism=1)
    await station.ensure(queue)
    steps = [{"number": i, "fails": int(i == 0)} for i in range(5)]
    await station.start_ready(2, ["patient"])
    handles = await station.send(queue, steps, retry=Retry(delay=4.0))
    (failed,) = await station.log.until(lambda: station.log.of("fail"))
    first, second = sorted(station.workers, key=lambda worker: worker.pid != failed.pid)
    await station.log.until(lambda: _waits(handles[0]))
    if how == "stopped":
        first.terminate()
    else:
        first.kill()
    assert await station.all_recorded(handles) == {"SUCCEEDED": 5}
    starts = station.log.of("start")
    print(f"{how}: the retry ran {starts[1].at - failed.at:.2f} s after the failure")
    assert [(event.number, event.attempt) for event in starts] == [(0, 1), (0, 2), (1, 1), (2, 1), (3, 1), (4, 1)]
    assert {event.pid for event in starts[1:]} == {second.pid}
    assert 3.99 <= starts[1].at - failed.at < 5 + pulse.lost()
    if how == "stopped":
        assert await first.ended() == 0


async def test_a_worker_that_is_stopping_does_not_wait_for_retries(station: Station) -> None:
    """An attempt that fails after SIGTERM hands its head over at once: the worker ends long before the retry is due."""
    queue = Queue("leaving", parallelism=1)
    await station.ensure(queue)
    (first,) = await station.start_ready(1, ["leaving"])
    handles = await station.send(queue, [{"number": 0, "seconds": 0.5, "fails": 1}], retry=Retry(delay=5.0))
    await station.log.until(lambda: station.log.of("start"))
    station.start(["leaving"])
    first.terminate()
    assert await first.ended() == 0
    ended = time.time()
    assert await station.all_recorded(handles) == {"SUCCEEDED": 1}
    one, two = station.log.of("start")
    assert (one.pid, two.attempt) == (first.pid, 2) and two.pid != first.pid
    assert ended < two.at


async def test_a_head_that_kills_its_workers_does_not_stop_its_queue(station: Station, outcomes: Outcomes) -> None:
    """A poisonous head of a FIFO queue is dead-lettered as crashed, and those behind it run in order."""
    queue = Queue("blocked", parallelism=1)
    await station.ensure(queue)
    steps = [{"number": 0, "dies": int(signal.SIGKILL)}, *({"number": i} for i in range(1, 8))]
    handles = await station.send(queue, steps)
    for _ in range(6):
        station.start(["blocked"])
    assert await station.all_recorded(handles) == {"FAILED": 1, "SUCCEEDED": 7}
    store = await station.store()
    (letter,) = await station.log.until(lambda: _dead(store))
    assert (letter.message_id, letter.reason) == (handles[0].id, "crashed")
    starts = [event.number for event in station.log.of("start")]
    runs = starts.count(0)  # max_crashes, or one more: a first run leaves no trace, unless the message was handed over
    assert runs in (3, 4) and starts == [0] * runs + [1, 2, 3, 4, 5, 6, 7]
    assert outcomes.recorded() == {handle.id: 1 for handle in handles}


async def _waits(handle: Handle[Any]) -> bool:
    return await handle.get_status_async() == "WAITING"


async def _dead(store: Store) -> list[DeadLetter]:
    return list((await store.dead(DeadFilter(reason="crashed"))).items)
