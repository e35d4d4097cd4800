"""Faults of a cluster of three RabbitMQ nodes, with quorum queues over all of them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aio_pika
import pytest

from taskq import TaskCancelled
from taskq.dispatch import broker_queues
from tests.chaos.stream import FIFO, OPEN, QUEUES, Ledger, Stream
from tests.integration.harness import Station
from tests.integration.harness_app import make_app
from tests.servers import RabbitCluster, RabbitNode
from tests.services import make_cluster
from tests.support import eventually

QUORUM = {"x-queue-type": "quorum"}
Note = Callable[[Ledger], None]
Consumers = Callable[[], Awaitable[bool]]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RabbitCluster]:
    """Three nodes of this module's own."""
    cluster = make_cluster()
    began = time.monotonic()
    cluster.start()
    print(f"a cluster of three booted in {time.monotonic() - began:.1f} s")
    yield cluster
    cluster.stop()


@pytest.fixture
async def station(
    cluster: RabbitCluster,
    postgres_store_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    anyio_backend: str,
) -> AsyncIterator[Station]:
    """Knows all three nodes, which all run, and comes to the first as long as it answers; so do its workers."""
    await all_run(cluster)
    monkeypatch.setenv("TASKQ_HEARTBEAT", "4")  # of the sender: it is to notice a node that hangs as soon as workers do
    prefix = f"chaos-{tmp_path.name[-33:]}"
    station = Station(broker=cluster.url(), store=postgres_store_url, prefix=prefix, folder=tmp_path)
    yield station
    await station.close()


@pytest.fixture
def asked(cluster: RabbitCluster) -> Callable[[], str]:
    """A node that answers."""
    return lambda: next(node.url for node in cluster.nodes if node.running)


async def lead(station: Station, cluster: RabbitCluster, node: RabbitNode) -> None:
    """Have this node lead all queues of the stream: they are born where their first declaration arrives."""
    app = make_app(broker=node.url, store=station.app.settings.store, prefix=station.prefix)
    client = app.client()
    store, broker = await client.store(), await client.broker()
    for queue in QUEUES:
        for broker_queue in broker_queues(await store.ensure_queue(queue)):
            await broker.declare(broker_queue)
    await app.close()
    assert await leader(station, cluster) is node


async def leader(station: Station, cluster: RabbitCluster) -> RabbitNode:
    """Who leads the FIFO queue."""
    return await asyncio.to_thread(cluster.leader, f"{station.prefix}.q.{FIFO.name}")


async def makes_queues(node: RabbitNode) -> bool:
    """Whether a quorum queue can be declared at this node."""
    try:
        async with await aio_pika.connect(node.url, timeout=5) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(f"probe-{os.urandom(4).hex()}", durable=True, arguments=QUORUM)
            await queue.delete(if_unused=False, if_empty=False)
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        raise AssertionError(f"{node.name} makes no queues: {error}") from error
    return True


async def elsewhere(station: Station, cluster: RabbitCluster, killed: RabbitNode) -> bool:
    return await leader(station, cluster) is not killed


async def forget(by: RabbitNode, lost: RabbitNode) -> bool:
    """Have a node forget another, which it does once it knows that this one is down."""
    try:
        await asyncio.to_thread(by.ctl, "forget_cluster_node", lost.name)
    except subprocess.CalledProcessError as refused:
        raise AssertionError(f"{lost.name} is not forgotten: {refused.stdout} {refused.stderr}") from refused
    return True


async def all_run(cluster: RabbitCluster, timeout: float = 60) -> None:  # noqa: ASYNC109
    """Start what is down, and wait until every node lets clients in and sees the two others."""
    for node in cluster.nodes:
        if not node.alive:
            await asyncio.to_thread(node.start)
    names = {node.name for node in cluster.nodes}
    nodes = "lists:sort(rabbit_nodes:all_running())."

    def whole() -> bool:
        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(lambda node: node.running and node.ctl("eval", nodes), cluster.nodes))
        missing = [name for name in names for view in seen if not view or name not in view]
        assert not missing, f"not seen by all: {missing}"
        return True

    await eventually(lambda: asyncio.to_thread(whole), timeout)


async def test_leader_killed(
    cluster: RabbitCluster, station: Station, stream: Callable[..., Stream], note: Note, consumers: Consumers
) -> None:
    """The node that leads the task queues is killed; all connections stand on others, and see nothing of it."""
    _, killed, _ = cluster.nodes
    await lead(station, cluster, killed)
    fault = stream("cluster: leader of the queues kill -9")
    async with fault.flowing():
        await asyncio.to_thread(killed.kill)
        back = await fault.mended(consumers)
        await eventually(lambda: elsewhere(station, cluster, killed), 20)  # brokers are slow to say who leads
        await asyncio.to_thread(killed.start)
        note(await fault.checked(back=back))
    lost = [worker.pid for worker in station.workers if "lost the connection" in worker.said()]
    assert not lost, "the node that died was not theirs"


async def test_node_lost_for_good(
    cluster: RabbitCluster, station: Station, stream: Callable[..., Stream], note: Note, consumers: Consumers
) -> None:
    """The node of all connections and leaders dies, is forgotten by the others, and replaced by an empty one."""
    lost, other, _ = cluster.nodes
    await lead(station, cluster, lost)
    fault = stream("cluster: node lost for good")
    async with fault.flowing():
        await asyncio.to_thread(lost.kill)
        back = await fault.mended(consumers)
        await eventually(lambda: forget(other, lost), 30)
        forgotten = time.time()
        await fault.ran_everywhere(since=forgotten)
        lost.lose_data()
        await asyncio.to_thread(lost.start)
        await fault.ran_everywhere(since=time.time())
        note(await fault.checked(back=back))
    assert all("connected to the broker at" in worker.said() for worker in station.workers)
    await all_run(cluster)


async def test_rolling_restart(
    cluster: RabbitCluster, station: Station, stream: Callable[..., Stream], note: Note, consumers: Consumers
) -> None:
    """Every node is shut down and started, one after the other, as at an upgrade."""
    fault = stream("cluster: rolling restart", pace=0.08)
    back = 0.0
    async with fault.flowing():
        for node in cluster.nodes:
            await asyncio.to_thread(node.shut_down)
            back = max(back, await fault.mended())
            await asyncio.to_thread(node.start)
        back = max(back, await fault.mended(consumers))
        note(await fault.checked(back=back))


async def test_minority_hangs(
    cluster: RabbitCluster, station: Station, stream: Callable[..., Stream], note: Note, consumers: Consumers
) -> None:
    """The node of all connections and leaders hangs, sockets open: everybody moves to the majority; it comes back."""
    hangs = cluster.nodes[0]
    await lead(station, cluster, hangs)
    fault = stream("cluster: minority hangs, comes back")
    async with fault.flowing():
        hangs.hang()
        try:
            back = await fault.mended()
        finally:
            hangs.go_on()
        try:
            await all_run(cluster, 30)
            await eventually(lambda: makes_queues(hangs), 30)
        except AssertionError as left_out:
            # It does not always find its cluster again, or not quite: whoever looks after it restarts it.
            print(f"restarted the node that hung: {left_out}")
            await asyncio.to_thread(hangs.kill)
            await all_run(cluster)
        await fault.ran_everywhere(since=time.time())
        await eventually(consumers, 30)
        note(await fault.checked(back=back))


async def test_results_and_cancels_across_the_death_of_their_node(cluster: RabbitCluster, station: Station) -> None:
    """Exclusive queues die with their node: results awaited across it arrive, and a cancel is heard after it."""
    dies = cluster.nodes[0]
    await station.ensure(OPEN)
    await station.start_ready(1, [OPEN.name], heartbeat=4)
    step = station.step.options(queue=OPEN)
    handles = [await step.enqueue_async(number=n, seconds=1 + n / 2) for n in range(6)]
    endless = await step.enqueue_async(number=6, seconds=600)
    waits = [asyncio.create_task(handle.get_result_async(60)) for handle in handles]
    await station.log.until(lambda: len(station.log.of("start")) == 7)
    await asyncio.to_thread(dies.kill)
    assert await asyncio.gather(*waits) == list(range(6))
    late = time.time() - max(event.at for event in station.log.of("end"))
    # By push over the new reply queue, or by a look into the store, which waiters take every 3 s.
    assert late < 10, f"the last result came {late:.1f} s after its task had returned"
    assert len(station.log.of("start")) == 7, "a run on an open queue outlives its connection"
    await endless.cancel_async()
    with pytest.raises(TaskCancelled):
        await endless.get_result_async(10)
    print(f"the last result came {late:.2f} s after its task had returned")


async def test_hosts_that_do_not_answer_are_passed_over_at_start(cluster: RabbitCluster, station: Station) -> None:
    """The first host refuses, the second says nothing: workers start, and an enqueue is confirmed within its 5 s."""
    await station.ensure(OPEN)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = silent.getsockname()[1]
        broker = f"amqp://guest:guest@127.0.0.1:{closed},127.0.0.1:{mute},127.0.0.1:{cluster.nodes[2].port}/"
        app = make_app(broker=broker, store=station.app.settings.store, prefix=station.prefix)
        began = time.monotonic()
        handle = await app.get_task("step").options(queue=OPEN).enqueue_async(number=1)
        took = time.monotonic() - began
        assert took < 5.5, f"the enqueue took {took:.2f} s: publish_timeout is 5 s"
        await station.start_ready(1, [OPEN.name], broker=broker)
        assert await handle.get_result_async(30) == 1
        await app.close()
    print(f"enqueued after {took:.2f} s")
