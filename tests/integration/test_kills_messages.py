"""Workers that die: nothing is lost, nothing recorded twice, and a message that kills is put aside."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from taskq import Queue
from taskq.store.base import DeadFilter, WaitingRow
from tests.integration.harness import Station, longest_gap
from tests.integration.outcomes import Outcomes
from tests.support import pulse

pytestmark = pytest.mark.anyio


async def test_every_message_is_done_and_recorded_once_through_ten_kills(station: Station, outcomes: Outcomes) -> None:
    """2,000 messages on an open queue are all done, each with one outcome, through 10 SIGKILLs."""
    queue = Queue("crowd")
    await station.ensure(queue)
    await station.start_ready(3, ["crowd"], concurrency=6)
    steps = [{"number": i, "seconds": 0.03, "fails": int(i % 20 == 7)} for i in range(2000)]
    handles = await station.send(queue, steps)
    for kill in range(10):
        await station.log.until(lambda: len(station.log.done()) >= 180 * (kill + 1))  # noqa: B023 - awaited here
        station.worker(station.log.of("start")[-1].pid).kill()
        station.start(["crowd"], concurrency=6)
    assert await station.all_recorded(handles, 60) == {"SUCCEEDED": 2000}
    spans = station.spans()
    again = Counter(Counter(event.id for event in station.log.of("end")).values())
    print(f"2,000 messages: {len(spans)} attempts, returned {dict(again)}, longest gap {longest_gap(spans):.2f} s")
    assert await asyncio.to_thread(outcomes.recorded) == {handle.id: 1 for handle in handles}


async def test_messages_outlive_the_keeper_that_was_about_to_release_them(station: Station, outcomes: Outcomes) -> None:
    """Due messages that a dead leader had claimed are released by the next one as soon as the claim has lapsed."""
    queue = Queue("delayed")
    await station.ensure(queue)
    (first,) = await station.start_ready(1, ["delayed"])
    handles = await station.send(queue, [{"number": i} for i in range(200)], delay=5.0)
    store = await station.store()

    async def booked() -> bool:
        return len((await store.waiting(queue="delayed", limit=200)).items) == 200

    await station.log.until(booked)
    first.kill()
    lapses = 0.0

    async def claim() -> Sequence[WaitingRow]:
        nonlocal lapses
        lapses = time.time() + 3.0  # or later, by what the claim takes
        return await store.claim_due(100, 3.0)

    claimed = await station.log.until(claim)
    await station.start_ready(1, ["delayed"])
    ready = time.time()
    assert await station.all_recorded(handles) == {"SUCCEEDED": 200}
    mine = {row.message.id for row in claimed}
    late = [event.at for event in station.log.of("start") if event.id in mine]
    print(
        f"{len(mine)} claimed by the dead, run {min(late) - lapses:.2f} to {max(late) - lapses:.2f} s after the lapse"
    )
    assert len(late) == len(mine) > 0 and min(late) > lapses - 0.1
    assert max(late) < max(lapses, ready) + 2 + pulse.lost()
    assert outcomes.recorded() == {handle.id: 1 for handle in handles}


async def test_a_message_whose_worker_dies_runs_on_another_and_has_one_outcome(
    station: Station, outcomes: Outcomes
) -> None:
    """The worker of a running message is killed: another worker runs it, without a retry being used."""
    queue = Queue("inherited")
    await station.ensure(queue)
    first = station.start(["inherited"])
    (handle,) = await station.send(queue, [{"number": 1, "seconds": 600.0, "again": 0.1}])
    await station.log.until(lambda: station.log.of("start", pid=first.pid))
    (second,) = await station.start_ready(1, ["inherited"])
    first.kill()
    assert first.killed_at is not None
    assert await handle.get_result_async(60) == 1
    (taken,) = station.log.of("start", pid=second.pid)
    print(f"taken over {taken.at - first.killed_at:.2f} s after the kill")
    assert taken.at - first.killed_at < 5 + pulse.lost()
    assert taken.attempt == 1
    assert [event.pid for event in station.log.of("end")] == [second.pid]
    assert outcomes.recorded() == {handle.id: 1}


async def test_a_message_that_kills_its_worker_ends_in_the_dead_letters(station: Station, outcomes: Outcomes) -> None:
    """A message that kills every worker is dead-lettered as crashed; the innocents beside it are done at once.

    Its first run leaves no trace in the store, so three are counted of four.
    """
    queue = Queue("mixed")
    await station.ensure(queue)
    innocent = [{"number": i, "seconds": 0.2} for i in range(40)]
    culprit = {"number": 99, "dies": int(signal.SIGKILL)}
    handles = await station.send(queue, [*innocent[:5], culprit, *innocent[5:]])
    store = await station.store()
    station.start(["mixed"], concurrency=4)
    station.start(["mixed"], concurrency=4)
    died: list[int] = []
    while not await store.count_dead(DeadFilter(reason="crashed")):
        await _replace_the_dead(station, died)
        assert len(died) <= 6, station.workers[-3].said()
    counts = await station.all_recorded(handles)
    assert counts == {"SUCCEEDED": 40, "FAILED": 1}
    (letter,) = (await store.dead(DeadFilter(queue="mixed"))).items
    crashed = station.log.of("start", number=99)
    print(f"the culprit began {len(crashed)} times; {len(died)} workers died")
    assert (letter.message_id, letter.reason) == (handles[5].id, "crashed")
    assert len(crashed) == len(died) == 4
    assert {event.attempt for event in station.log.of("start")} == {1}, "a crash used up a retry"
    assert outcomes.recorded() == {handle.id: 1 for handle in handles}


async def _replace_the_dead(station: Station, died: list[int]) -> None:
    """Wait a moment, and start a worker for each that died."""
    await asyncio.sleep(0.02)
    for worker in list(station.workers):
        if not worker.running and worker.pid not in died:
            died.append(worker.pid)
            station.start(["mixed"], concurrency=4)
