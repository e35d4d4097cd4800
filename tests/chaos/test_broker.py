"""Faults of the broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aio_pika
import pytest

from taskq import BrokerUnavailable
from tests.chaos.stream import FIFO, LANES, OPEN, POOL, Ledger, Stream
from tests.servers import RabbitNode

PUBLISH_BOUND = 6.0  # seconds: publish_timeout, and one for a busy machine
DRAINED = 20.0  # seconds for a backlog that two workers run in three


async def test_stop_app_and_start_app(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """The broker's application stops for some seconds and starts again."""
    fault = stream("broker: stop_app, start_app")
    async with fault.flowing():
        await asyncio.to_thread(node.ctl, "stop_app")
        await asyncio.to_thread(node.ctl, "start_app")
        back = await fault.mended(consumers)
        note(await fault.checked(back=back))


async def test_kill_9(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """The broker is killed and starts again on the same data."""
    fault = stream("broker: kill -9, restart")
    async with fault.flowing():
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        back = await fault.mended(consumers)
        note(await fault.checked(back=back))


async def test_connections_closed_by_the_server(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """An operator closes every connection, and those that came instead."""
    fault = stream("broker: connections closed")
    async with fault.flowing():
        for _ in range(2):
            await asyncio.to_thread(node.ctl, "close_all_connections", "a test")
        back = await fault.mended(consumers)
        note(await fault.checked(back=back))


async def test_queues_deleted_under_their_consumers(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """A queue of each kind, empty, is deleted by an operator: it is there again, and consumed, and means the same."""
    fault = stream("broker: queues deleted")
    names = [f"q.{OPEN.name}", f"q.{FIFO.name}", f"lane.{LANES.name}.1", f"q.{POOL.name}"]
    names += [f"slot.{POOL.name}.1", "slot.keeper.0", "waiting", "dead"]
    async with fault.flowing():
        async with fault.quiet(), await aio_pika.connect(node.url) as connection:
            channel = await connection.channel()
            for name in names:
                await channel.queue_delete(f"{fault.station.prefix}.{name}")
        back = await fault.mended(consumers)
        await asyncio.sleep(2)  # of work on the new ones, to be checked for order and limits
        note(await fault.checked(back=back))


@pytest.mark.parametrize(
    ("alarm", "end"),
    [
        (("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.4")),
        (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB")),
    ],
    ids=["memory", "disk"],
)
async def test_alarm(
    node: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
    alarm: tuple[str, ...],
    end: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:
    """Under an alarm enqueues raise in time, from async and from sync code; what is ready runs; it ends by itself."""
    fault = stream(f"broker: {request.node.callspec.id} alarm")
    async with fault.flowing():
        log, step = fault.station.log, fault.station.step.options(queue=OPEN)
        first = await asyncio.to_thread(step.enqueue)  # the app is connected for sync callers, too
        backlog = await fault.station.send(OPEN, [{"seconds": 0.5, "fails": n % 4 == 0} for n in range(200)])
        try:
            await asyncio.to_thread(node.ctl, *alarm)
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await asyncio.to_thread(step.enqueue)
            assert time.monotonic() - began < PUBLISH_BOUND
            ids = {handle.id for handle in backlog}
            await log.until(lambda: ids <= {event.id for event in log.read() if event.kind in ("end", "fail")}, DRAINED)
            held_up = {event.id for event in log.of("fail") if event.id in ids} - log.done()
            assert held_up, "no retry of the backlog was held up by the alarm: this test showed nothing"
        finally:
            await asyncio.to_thread(node.ctl, *end)
        back = await fault.mended(consumers)
        fault.sent[OPEN.name].confirmed |= {handle.id: -1 for handle in (first, *backlog)}
        ledger = await fault.checked(back=back)
        assert ledger.unconfirmed > 0, ledger
        note(ledger)
