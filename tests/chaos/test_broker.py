"""Faults of the broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import aio_pika
import pytest

from taskq import BrokerUnavailable
from tests.chaos.stream import FIFO, LANES, OPEN, POOL, Ledger, Stream
from tests.servers import RabbitNode

PUBLISH_BOUND = 6.0  # seconds: publish_timeout, and one for a busy machine
DRAINED = 30.0  # seconds for a backlog that two workers run in one, and see within five
ACK_TIMEOUT = 4  # seconds
LONG = 7.0  # seconds of a run that outlives it


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
        await fault.station.pause(OPEN.name, True)  # the backlog is there when the alarm comes, however late
        backlog = await fault.station.send(OPEN, [{"seconds": 0.1, "fails": n % 4 == 0} for n in range(200)])
        try:
            await asyncio.to_thread(node.ctl, *alarm)
            await fault.station.pause(OPEN.name, False)
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


def have_patience(node: RabbitNode, timeout: float, every: float) -> None:
    """Set after how many seconds the broker closes a channel that holds a delivery, if it was opened after this.

    So it is before 3.12; newer ones go by the argument of each queue.
    """
    values = {"consumer_timeout": timeout, "channel_tick_interval": every}
    node.ctl("eval", ", ".join(f"application:set_env(rabbit, {k}, {v * 1000:.0f})" for k, v in values.items()) + ".")


@pytest.fixture
def impatient(node: RabbitNode) -> Iterator[RabbitNode]:
    have_patience(node, ACK_TIMEOUT, 0.5)
    yield node
    have_patience(node, 1800, 60)


async def test_runs_that_outlive_the_acknowledgement_timeout(
    impatient: RabbitNode,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> None:
    """On a queue of each kind a run outlives the broker's patience: it goes on, once, and so does everything else."""
    fault = stream("broker: acknowledgement timeout")
    async with fault.flowing(broker_ack_timeout=ACK_TIMEOUT):
        long = await asyncio.gather(*(fault.send_long(queue, LONG) for queue in (OPEN, FIFO, LANES, POOL)))
        log = fault.station.log
        await log.until(lambda: set(long) <= log.done(), LONG + 10)
        back = await fault.mended(consumers)
        note(await fault.checked(back=back))
    for message_id in long:
        assert len(log.of("start", id=message_id)) == 1, log.of("start", id=message_id)
    facts = (await fault.station.app.client().broker()).facts
    taken_back = any("delivery acknowledgement on channel" in worker.said() for worker in fault.station.workers)
    assert taken_back or facts.queue_ack_timeout, "the broker took nothing back: this test showed nothing"
