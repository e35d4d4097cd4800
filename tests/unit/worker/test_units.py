"""How far ahead of their turn messages are fetched, and when what was fetched begins or goes back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from taskq.broker.base import BrokerQueue, Delivery, Kind, Outgoing
from taskq.broker.memory import MemoryBroker, forget
from taskq.clock import SystemClock
from taskq.message import Message
from taskq.outcome import Status
from taskq.queue import RateLimit
from taskq.store.base import Claimed
from taskq.worker.run import Places, Run
from taskq.worker.units import (
    FAST,
    FAST_PREFETCH,
    FASTEST,
    FASTEST_RECORDED,
    HELD_MOST,
    MEASURED,
    STOOD_STILL,
    FifoUnit,
    OpenUnit,
    Pace,
    SlotUnit,
    Unit,
)
from tests.support import eventually

FIFO = BrokerQueue(Kind.TASK, "fifo", ordered=True)
POOL = BrokerQueue(Kind.TASK, "pool")
SLOT = BrokerQueue(Kind.SLOT, "pool", 0)


class SetClock(SystemClock):
    """Monotonic time as the test says."""

    time = 1000.0

    def monotonic(self) -> float:
        return self.time


class Host:
    """A worker whose runs begin, and end when the test says."""

    def __init__(self, broker: MemoryBroker, places: int = 10) -> None:
        self.broker = broker
        self.clock = SetClock()
        self.places = Places(places)
        self.longest_hold = 100.0
        self.turned = self.clock.monotonic()
        self.started: list[Run] = []
        self.claims: list[Run] = []
        self.given_back: list[Run] = []
        self.hops = False  # what comes is to be claimed
        self.line: list[Unit] = []

    def accept(self, delivery: Delivery, unit: Unit) -> Run:
        message = Message(delivery.body.decode(), "task", "queue", b"", "", datetime.now(UTC))
        return Run(message, [delivery], unit, self.clock.monotonic(), claim=self.hops)

    def claim(self, run: Run) -> None:
        self.claims.append(run)

    def found(self) -> None:
        """The claims are made."""
        claims, self.claims = self.claims, []
        for run in claims:
            run.claimed = Claimed(1, Status.RUNNING, 1)
            run.unit.claimed(run)

    def give_back(self, run: Run) -> None:
        self.given_back.append(run)

    def start(self, run: Run) -> None:
        self.started.append(run)

    def line_up(self, unit: Unit) -> None:
        self.line.append(unit)

    def forget(self, run: Run) -> None:
        pass

    def recycle(self, why: str) -> None:
        raise AssertionError(why)

    @property
    def ids(self) -> list[str]:
        return [run.message.id for run in self.started]

    def leave_place(self, run: Run) -> None:
        """The task has ended, its outcome is not recorded yet."""
        run.unit.executing -= 1
        self.places.give()
        run.unit.pump()

    def finish(self, run: Run) -> None:
        """To the acknowledgement."""
        self.leave_place(run)
        run.delivery.acknowledge()
        run.unit.finished(run)


def server(**record: Any) -> Any:
    fields = {"parallelism": 1, "partitions": None, "rate_limit": None, "retry_in_place": False} | record
    return SimpleNamespace(record=SimpleNamespace(**fields), paused=False, gate_open=lambda: True, shared=lambda: False)


@asynccontextmanager
async def serving(make: Callable[[Host], Unit], *bodies: str) -> AsyncIterator[tuple[Host, Any]]:
    """A unit that consumes a queue with these messages."""
    name = uuid.uuid4().hex
    broker = MemoryBroker(f"memory://{name}", prefix="units", publish_timeout=1, clock=SystemClock())
    await broker.open()
    host = Host(broker)
    unit = make(host)
    await broker.declare(unit.queue)
    await broker.declare(SLOT)
    for body in bodies:
        await broker.publish(Outgoing(unit.queue, body.encode(), body, "text/plain"))
    job = asyncio.create_task(unit.run())
    try:
        yield host, unit
    finally:
        job.cancel()
        await asyncio.wait({job})
        await broker.close()
        forget(name)


def fifo(host: Host, **record: Any) -> Unit:
    return FifoUnit(FIFO, server(**record), host)


def slot(host: Host, **record: Any) -> SlotUnit:
    return SlotUnit(SLOT, POOL, server(**{"parallelism": 4} | record), host, lambda: None)


def measured(unit: Unit, seconds: float = FAST / 2) -> None:
    for _ in range(MEASURED):
        unit.executed(seconds)


async def test_the_next_of_a_fifo_queue_is_here_and_begins_when_the_head_is_acknowledged() -> None:
    """Not when its task has ended: until then it may still be about to run again."""
    async with serving(fifo, "a", "b", "c") as (host, unit):
        await eventually(lambda: host.ids == ["a"] and len(unit.buffer) == 1)
        host.leave_place(host.started[0])
        assert host.ids == ["a"]
        host.started[0].delivery.acknowledge()
        unit.finished(host.started[0])
        assert host.ids == ["a", "b"]
        await eventually(lambda: len(unit.buffer) == 1)


async def test_what_begins_anew_on_a_fifo_queue_comes_before_what_waits_behind_it() -> None:
    """A run that was overtaken goes back to its place, which is the first one."""
    async with serving(fifo, "a", "b") as (host, unit):
        await eventually(lambda: host.ids == ["a"] and len(unit.buffer) == 1)
        (head,) = host.started
        host.leave_place(head)
        unit.on_old_delivery(head.delivery)
        unit.finished(head)
        assert host.ids == ["a", "a"]


async def test_a_loop_that_stood_still_begins_nothing_that_waits() -> None:
    """Somebody else may have it by now; when the loop turns again, and the channel still stands, it begins."""
    async with serving(fifo, "a", "b") as (host, unit):
        await eventually(lambda: host.ids == ["a"] and len(unit.buffer) == 1)
        host.clock.time += STOOD_STILL
        host.finish(host.started[0])
        assert host.ids == ["a"]
        host.turned = host.clock.time
        unit.pump()
        assert host.ids == ["a", "b"]


async def test_successes_that_are_not_recorded_end_the_fetching_ahead_of_a_fifo_queue() -> None:
    """The acknowledgement alone stands for them: the next may come only after the broker has it."""
    async with serving(fifo, "a") as (host, unit):
        await eventually(lambda: host.ids == ["a"])
        assert unit.prefetch == 2 and not unit.spares_records()
        unit.tick(host.clock.time)
        host.finish(host.started[0])
        await eventually(lambda: unit.prefetch == 1)
        assert unit.spares_records()


async def test_what_waits_behind_a_long_run_is_sent_round_with_it() -> None:
    """The broker would take both back; they come again, in order, and nothing begins twice."""
    async with serving(fifo, "a", "b") as (host, unit):
        await eventually(lambda: host.ids == ["a"] and len(unit.buffer) == 1)
        seen: list[str] = []

        def accept(delivery: Delivery, unit: Unit) -> None:
            seen.append(delivery.body.decode())

        host.accept = accept  # type: ignore[method-assign,assignment]
        host.clock.time += host.longest_hold + 1
        unit.tick(host.clock.time)
        await eventually(lambda: seen == ["a", "b"])


@pytest.mark.parametrize(
    "record, seconds, records, prefetch",
    [
        ({}, FAST / 2, False, FAST_PREFETCH // 4),
        ({}, FAST / 2, True, FAST_PREFETCH // 4),
        ({}, FASTEST / 2, False, FAST_PREFETCH // 4),
        ({}, FASTEST / 2, True, FASTEST_RECORDED // 4),
        ({}, FAST * 2, True, 1),
        ({"parallelism": 1}, FASTEST / 2, True, 1),  # keeps the order of the queue
        ({"retry_in_place": True}, FAST / 2, False, 1),
        ({"rate_limit": RateLimit(1)}, FAST / 2, False, 1),
        ({"parallelism": 5000}, FASTEST / 2, True, 1),
    ],
)
async def test_how_far_a_slot_fetches_ahead(
    record: dict[str, Any], seconds: float, records: bool, prefetch: int
) -> None:
    """While tasks take a few milliseconds, and where order, places and rates do not forbid it; further where
    outcomes are recorded, which keeps what has run in hand, if all that comes begins soon."""
    async with serving(lambda host: slot(host, **record)) as (host, unit):
        await eventually(lambda: unit.prefetch == 1)
        unit.records = records
        measured(unit, seconds)
        await eventually(lambda: not unit.changed.is_set())
        await eventually(lambda: unit.prefetch == prefetch)


async def test_a_pace_about_the_limit_does_not_change_the_prefetch_all_the_time() -> None:
    """It is one of the quickest below a millisecond, and no longer one at two."""
    pace = Pace()
    found = []
    for seconds in (FASTEST * 1.5, FASTEST * 0.9, FASTEST * 1.9, FASTEST * 2.1, FASTEST * 1.1):
        for _ in range(200):
            pace.add(seconds)
        found.append(pace.fastest)
    assert found == [False, True, True, False, False]


async def test_a_slot_whose_task_takes_long_gives_back_what_waits() -> None:
    """Other slots run it meanwhile; this one takes the next when it is free."""
    async with serving(slot) as (host, unit):
        await eventually(lambda: unit.prefetch == 1)
        measured(unit)
        await eventually(lambda: unit.prefetch > 1)
        for body in "abc":
            await host.broker.publish(Outgoing(POOL, body.encode(), body, "text/plain"))
        await eventually(lambda: host.ids == ["a"] and len(unit.buffer) == 2)
        host.clock.time = host.turned = host.clock.time + HELD_MOST + 0.1
        unit.tick(host.clock.time)
        await eventually(lambda: unit.prefetch == 0 and not unit.buffer)
        depth = await host.broker.depth(POOL)
        assert depth is not None and depth.ready == 2
        host.finish(host.started[0])
        await eventually(lambda: host.ids == ["a", "b"] and unit.prefetch == 1)
        assert not unit.buffer


async def test_a_slot_that_is_paused_gives_back_what_waits() -> None:
    """At once, and not only when its task has ended."""
    async with serving(slot) as (host, unit):
        measured(unit)
        await eventually(lambda: unit.prefetch > 1)
        for body in "ab":
            await host.broker.publish(Outgoing(POOL, body.encode(), body, "text/plain"))
        await eventually(lambda: host.ids == ["a"] and len(unit.buffer) == 1)
        unit.server.paused = True
        unit.changed.set()
        await eventually(lambda: not unit.buffer)
        depth = await host.broker.depth(POOL)
        assert depth is not None and depth.ready == 1


async def test_a_unit_that_lacks_a_place_gets_in_line() -> None:
    """And is told when there is one."""
    async with serving(slot) as (host, unit):
        host.places.taken = host.places.capacity
        await eventually(lambda: unit.prefetch == 1)
        await host.broker.publish(Outgoing(POOL, b"a", "a", "text/plain"))
        await eventually(lambda: host.line == [unit] and not host.ids)
        host.places.taken = 0
        unit.pump()
        assert host.ids == ["a"]


def open_queue(host: Host, **record: Any) -> OpenUnit:
    host.hops = True
    return OpenUnit(POOL, server(**{"parallelism": None, "worker_parallelism": None} | record), host)


async def fetching(host: Host, unit: Unit, *bodies: str, **record: Any) -> None:
    """Its tasks are quick, so that messages are fetched ahead; these are published then."""
    measured(unit)
    await eventually(lambda: unit.prefetch == FAST_PREFETCH)
    for body in bodies:
        await host.broker.publish(Outgoing(POOL, body.encode(), body, "text/plain"))


async def test_what_is_fetched_ahead_is_claimed_before_it_has_a_place() -> None:
    """All that came by one call, however few may run at once; they begin as there are places."""
    async with serving(open_queue) as (host, unit):
        host.places.capacity = 1
        await fetching(host, unit, *"abc")
        await eventually(lambda: len(host.claims) == 3)
        assert not host.started and len(unit.held) == 3 and host.places.taken == 0
        host.found()
        assert host.ids == ["a"] and len(unit.buffer) == 2
        host.finish(host.started[0])
        assert host.ids == ["a", "b"]


@pytest.mark.parametrize("record", [{"rate_limit": RateLimit(1)}, {"worker_parallelism": 2}])
async def test_what_may_not_be_fetched_ahead_is_claimed_in_its_place(record: dict[str, Any]) -> None:
    """Nobody else may run it while it waits, so it waits for nothing but a place."""
    async with serving(lambda host: open_queue(host, **record)) as (host, unit):
        await eventually(lambda: unit.prefetch > 0)
        measured(unit)
        await host.broker.publish(Outgoing(POOL, b"a", "a", "text/plain"))
        await eventually(lambda: host.ids == ["a"])
        assert not host.claims


async def test_what_was_claimed_and_waits_for_long_goes_back_by_its_claim() -> None:
    """Also what is claimed only then: its claim is closed before another worker gets it."""
    async with serving(open_queue) as (host, unit):
        host.places.capacity = 1
        await fetching(host, unit, *"ab")
        await eventually(lambda: len(host.claims) == 2)
        host.found()
        await host.broker.publish(Outgoing(POOL, b"c", "c", "text/plain"))
        await eventually(lambda: len(host.claims) == 1)
        host.clock.time += HELD_MOST + 0.1
        unit.tick(host.clock.time)
        await eventually(lambda: [run.message.id for run in host.given_back] == ["b"])
        host.found()
        await eventually(lambda: [run.message.id for run in host.given_back] == ["b", "c"])
        assert host.ids == ["a"] and not unit.buffer and set(host.given_back) < unit.held
