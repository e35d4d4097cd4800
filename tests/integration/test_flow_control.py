"""Flow control by key: limits that messages of a key share, over queues and workers, on either broker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from taskq import InvalidSetting, Queue, RateLimit, Retry, current
from taskq.admin.replay import Replay
from taskq.outcome import Status
from taskq.task import Task
from taskq.worker import keys
from tests.integration.harness import Station, most_at_once
from tests.integration.room import Room
from tests.support import PATIENCE, eventually, pulse


class Seen:
    """What the tasks saw: how many of a key ran at once, and when each began."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.starts: list[tuple[str, int, float]] = []

    def enter(self, key: str, number: int) -> None:
        self.starts.append((key, number, time.monotonic()))
        self.running[key] += 1
        self.most[key] = max(self.most[key], self.running[key])

    def order(self, key: str) -> list[int]:
        return [number for one, number, _ in self.starts if one == key]


def steps(room: Room, seen: Seen, **definition: Any) -> Task[..., None]:
    """A task that takes a moment and tells."""

    @room.app.task(name="step", **definition)
    async def step(key: str, number: int, seconds: float = 0.02) -> None:
        seen.enter(key, number)
        await asyncio.sleep(seconds)
        seen.running[key] -= 1

    return step


async def all_of(handles: Sequence[Any], timeout: float = PATIENCE) -> None:  # noqa: ASYNC109
    await asyncio.gather(*(handle.get_result_async(timeout) for handle in handles))


async def test_a_key_runs_as_many_at_once_as_it_may(room: Room) -> None:
    """Two workers with room for many: three of a key at once, and no fewer; another key is not held up."""
    seen, three = Seen(), asyncio.Event()

    @room.app.task(name="step")
    async def step(key: str, number: int) -> None:
        seen.enter(key, number)
        if seen.running["a"] == 3:
            three.set()
        if key == "a":
            await three.wait()  # the first of them end when three run at once
        seen.running[key] -= 1

    for _ in range(2):
        await room.worker()
    mine = step.options(flow_key="a", flow_parallelism=3)
    handles = await room.app.enqueue_many_async([mine.message("a", number) for number in range(40)])
    await asyncio.wait_for(three.wait(), 60)
    other = await step.options(flow_key="b", flow_parallelism=1).enqueue_async("b", 0)
    await other.get_result_async(60)
    await all_of(handles)
    assert seen.most["a"] == 3
    assert sorted(seen.order("a")) == list(range(40))


async def test_all_keys_together_run_as_many_at_once_as_the_setting_says(room: Room) -> None:
    """Three keys of three each, and four at once; none starves, and heads of ordered queues count too."""
    seen = Seen()
    most, running = 0, 0

    @room.app.task(name="watched")
    async def watched(key: str, number: int) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        seen.enter(key, number)
        await asyncio.sleep(0.02)
        running -= 1

    room.app.queues["line"] = Queue("line", parallelism=1)
    for _ in range(2):
        await room.worker(settings={"flow_parallelism": 4})
    handles = []
    for number in range(20):
        for key in "abc":
            options = watched.options(flow_key=key, flow_parallelism=3)
            options = options.options(queue=room.app.queues["line"]) if number % 5 == 0 else options
            handles.append(await options.enqueue_async(key, number))
    await all_of(handles)
    assert 2 <= most <= 4
    assert {key: sorted(seen.order(key)) for key in "abc"} == dict.fromkeys("abc", list(range(20)))


async def test_one_at_a_time_keeps_the_order_of_sending(room: Room) -> None:
    seen = Seen()
    step = steps(room, seen).options(flow_key="a", flow_parallelism=1)
    for _ in range(2):
        await room.worker()
    await all_of([await step.enqueue_async("a", number) for number in range(15)])
    assert (seen.order("a"), seen.most["a"]) == (list(range(15)), 1)


async def test_a_rate_holds_over_workers_and_queues(room: Room) -> None:
    """`start[i + limit] - start[i] >= per`, also where the messages of the key are on two queues."""
    seen = Seen()
    step = steps(room, seen)
    for _ in range(2):
        await room.worker()
    limited = [
        step.options(queue=name, flow_key="a", flow_rate=RateLimit(4, per=0.5)).message("a", number, 0.0)
        for number in range(8)
        for name in ("one", "two")
    ]
    await room.worker(queues=["one", "two"])
    await all_of(await room.app.enqueue_many_async(limited))
    starts = sorted(at for _, _, at in seen.starts)
    assert len(starts) == 16
    gaps = [later - earlier for earlier, later in zip(starts, starts[4:], strict=False)]
    # A process that is stopped between its permit and its first line begins late, and nobody can know (guarantees.md).
    assert min(gaps) >= 0.5 - pulse.lost()


async def test_a_late_key_is_not_behind_the_backlog_of_another(room: Room) -> None:
    """A thousand messages of one key, which may all run at once, and one of another: it starts in its turn."""
    seen = Seen()
    step = steps(room, seen)
    await room.worker(concurrency=2)
    many = step.options(flow_key="a", flow_parallelism=1000)
    await room.app.enqueue_many_async([many.message("a", number) for number in range(1000)])
    await eventually(lambda: len(seen.order("a")) > 20)
    handle = await step.options(flow_key="b", flow_parallelism=1).enqueue_async("b", 0)
    store = await room.store()
    await eventually(lambda: store.get(handle.id))  # its turn is counted from when it is in line
    before = len(seen.starts)
    await handle.get_result_async(60)
    [place] = [index for index, (key, _, _) in enumerate(seen.starts) if key == "b"]
    assert place - before <= 50


async def test_a_paused_key_starts_nothing_and_goes_on_in_its_order(room: Room) -> None:
    seen = Seen()
    step = steps(room, seen)
    store = await room.store()
    await store.set_flow("a", paused=True)
    await room.worker()
    mine = step.options(flow_key="a", flow_parallelism=1)
    handles = [await mine.enqueue_async("a", number) for number in range(5)]
    await (await step.enqueue_async("none", 0)).get_result_async(60)
    await room.has(handles[-1], Status.WAITING)
    assert seen.order("a") == []
    await store.set_flow("a", paused=False)
    await all_of(handles)
    assert seen.order("a") == list(range(5))


async def test_heads_of_a_fifo_queue_wait_in_their_place(room: Room) -> None:
    """The queue's order holds, whatever its messages' keys; a key's limit holds over its FIFO and other queues."""
    seen = Seen()
    step = steps(room, seen)
    fifo = Queue("line", parallelism=1)
    room.app.queues["line"] = fifo
    await room.worker()
    handles = []
    for number in range(12):
        key = "ab"[number % 2]
        options = step.options(flow_key=key, flow_parallelism=1)
        handles.append(await options.options(queue=fifo).enqueue_async(key, number))
        handles.append(await options.enqueue_async(key, 100 + number))
    await all_of(handles)
    assert [number for _, number, _ in seen.starts if number < 100] == list(range(12))
    assert (seen.most["a"], seen.most["b"]) == (1, 1)


async def test_a_message_that_waits_for_its_retry_holds_no_permit(room: Room) -> None:
    failed = asyncio.Event()

    @room.app.task(name="fails", retry=Retry(max_retries=1, delay=60))
    async def fails() -> None:
        failed.set()
        raise ValueError("no")

    seen = Seen()
    step = steps(room, seen).options(flow_key="a", flow_parallelism=1)
    await room.worker()
    waits = await fails.options(flow_key="a", flow_parallelism=1).enqueue_async()
    await failed.wait()
    await (await step.enqueue_async("a", 1)).get_result_async(60)
    assert await room.status(waits) is Status.WAITING


async def test_a_waiter_is_cancelled_at_once(room: Room) -> None:
    seen, cancelled = Seen(), asyncio.Event()

    @room.app.task(name="step")
    async def step(number: int) -> None:
        seen.enter("a", number)
        await cancelled.wait()
        seen.running["a"] -= 1

    await room.worker()
    mine = step.options(flow_key="a", flow_parallelism=1)
    first, second, third = [await mine.enqueue_async(number) for number in range(3)]
    await room.has(second, Status.WAITING)
    await second.cancel_async()
    assert await room.status(second) is Status.CANCELLED
    cancelled.set()
    await all_of([first, third])
    assert seen.order("a") == [0, 2]


async def test_limits_of_a_later_message_count_for_those_that_wait(room: Room) -> None:
    seen = Seen()
    step = steps(room, seen)
    await room.worker()
    one = step.options(flow_key="a", flow_parallelism=1)
    handles = [await one.enqueue_async("a", number, 0.2) for number in range(10)]
    handles.append(await step.options(flow_key="a", flow_parallelism=8).enqueue_async("a", 10, 0.2))
    await all_of(handles)
    assert 1 < seen.most["a"] <= 8


async def test_a_run_whose_permit_is_not_renewed_ends(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops before its permit counts no longer, and its message runs again."""
    for name, seconds in (("LEASE", 1.0), ("STOP_AFTER", 0.4), ("RENEW_EVERY", 0.1)):
        monkeypatch.setattr(keys, name, seconds)
    began: list[float] = []

    @room.app.task(name="long")
    async def long() -> int:
        began.append(time.monotonic())
        await asyncio.sleep(30 if len(began) == 1 else 0)
        return len(began)

    worker = await room.worker()
    renew, lost = worker.store.renew_permits, []

    async def fails(worker_id: str, lease: float) -> list[str]:
        if len(began) == 1:
            lost.append(worker_id)
            return []
        return await renew(worker_id, lease)

    monkeypatch.setattr(worker.store, "renew_permits", fails)
    handle = await long.options(flow_key="a", flow_parallelism=1).enqueue_async()
    assert await handle.get_result_async(60) == 2
    assert lost and began[1] - began[0] < 20 + pulse.lost()


async def test_the_same_key_goes_on_when_its_worker_is_killed(station: Station) -> None:
    """Five kills of workers that hold permits: none is lost, and never more run at once than the key allows."""
    queue = Queue("keyed")
    await station.start_ready(3, ["keyed"], heartbeat=4)
    arguments = [{"number": number, "seconds": 0.05, "key": "a"} for number in range(200)]
    handles = await station.send(queue, arguments, flow_key="a", flow_parallelism=4)
    for kill in range(5):
        await station.log.until(lambda kill=kill: len(station.log.of("end")) > 30 * kill)
        alive = [worker for worker in station.workers if worker.running]
        alive[0].kill()
        station.start(["keyed"], heartbeat=4)
    assert await station.all_recorded(handles, 60) == {"SUCCEEDED": 200}
    assert most_at_once(station.spans(queue="keyed")) == 4


async def test_a_dead_letter_that_is_retried_waits_for_its_key(room: Room) -> None:
    began: list[str] = []

    @room.app.task(name="fails", retry=Retry(max_retries=0))
    async def fails() -> None:
        began.append(current().id)
        raise ValueError("no")

    await room.worker()
    first = await fails.options(flow_key="a", flow_parallelism=1).enqueue_async()
    letter = await room.dead(message_id=first.id)
    store, client = await room.store(), room.app.client()
    await store.set_flow("a", paused=True)
    assert client.dispatcher is not None
    broker = await client.broker()
    replay = Replay(broker=broker, store=store, dispatcher=client.dispatcher, clock=room.app.clock)
    assert [batch async for batch in replay.revive([letter.id])]
    await eventually(lambda: _waiting(room, 1))
    assert began == [first.id]
    await store.set_flow("a", paused=False)
    await eventually(lambda: len(began) == 2)


async def _waiting(room: Room, number: int) -> bool:
    record = await (await room.store()).get_flow("a")
    return record is not None and record.waiting == number


def test_options_of_flow_control_are_checked(room: Room) -> None:
    task = steps(room, Seen())
    for bad, what in (
        ({"flow_key": ""}, "flow_key"),
        ({"flow_key": "k" * 201}, "flow_key"),
        ({"flow_key": "k", "flow_parallelism": 0}, "flow_parallelism"),
        ({"flow_key": "k", "flow_rate": 5}, "flow_rate"),
        ({"flow_parallelism": 2}, "flow_parallelism"),
        ({"flow_rate": RateLimit(2)}, "flow_rate"),
    ):
        with pytest.raises(InvalidSetting, match=what):
            task.options(**bad)
