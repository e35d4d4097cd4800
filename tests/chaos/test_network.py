"""Faults of the network between the broker and its clients: each on lines of their own, through proxies on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.stream import FIFO, POOL, Ledger, Stream
from tests.integration.harness import Station
from tests.proxy import BASIC_DELIVER, BASIC_PUBLISH, Proxy
from tests.servers import RabbitNode
from tests.support import eventually

NOTICED = 15.0  # seconds within which a broken line shows on /health: its limit of 5, the dog's round, a busy machine
HEARTBEAT = 2  # seconds, of workers that are cut off: the broker gives their work away after one to three of these
LONG = 12.0  # seconds of a run that outlives that
AGAIN = 0.1  # seconds of the run after it


@dataclass
class Network:
    """The sender and each of two workers on a line of its own."""

    sender: Proxy
    first: Proxy
    second: Proxy

    @property
    def lines(self) -> list[Proxy]:
        return [self.sender, self.first, self.second]

    @property
    def each(self) -> list[dict[str, object]]:
        """The settings of each worker."""
        return [{"broker": url_of(self.first)}, {"broker": url_of(self.second)}]


def url_of(line: Proxy) -> str:
    return f"amqp://guest:guest@127.0.0.1:{line.port}/"


@pytest.fixture
async def network(node: RabbitNode, anyio_backend: str) -> AsyncIterator[Network]:
    async with contextlib.AsyncExitStack() as lines:
        yield Network(*[await lines.enter_async_context(Proxy("127.0.0.1", node.port)) for _ in range(3)])


@pytest.fixture
async def station(network: Network, postgres_store_url: str, tmp_path: Path) -> AsyncIterator[Station]:
    """The one of all chaos tests, with the sender on its line."""
    prefix = f"chaos-{tmp_path.name[-33:]}"
    station = Station(broker=url_of(network.sender), store=postgres_store_url, prefix=prefix, folder=tmp_path)
    yield station
    for line in network.lines:
        line.heal()
    await station.close()


@pytest.fixture
def through(
    network: Network,
    stream: Callable[..., Stream],
    note: Callable[[Ledger], None],
    consumers: Callable[[], Awaitable[bool]],
) -> Callable[..., contextlib.AbstractAsyncContextManager[Stream]]:
    """`async with through("a fault") as stream:` do it, and undo it; then all must be back, and every promise kept."""

    @contextlib.asynccontextmanager
    async def run(fault: str, **settings: object) -> AsyncIterator[Stream]:
        work = stream(f"network: {fault}")
        async with work.flowing(1, each=network.each, **settings):
            yield work
            back = await work.mended(consumers)
            note(await work.checked(back=back))

    return run


Through = Callable[..., contextlib.AbstractAsyncContextManager[Stream]]


async def all_ill(stream: Stream) -> None:
    """Wait until every worker has said on /health that it is ill."""

    def check() -> bool:
        told = {answer.worker for answer in stream.answers if answer.status == 503}
        missing = {worker.pid for worker in stream.station.workers} - told
        assert not missing, f"workers {missing} say nothing of their illness"
        return True

    await eventually(check, NOTICED)


async def test_reset(network: Network, through: Through) -> None:
    """All connections are reset, one line after the other, several times."""
    async with through("resets"):
        for _ in range(4):
            for line in network.lines:
                line.reset()
                await asyncio.sleep(0.25)


async def test_blackhole_shorter_than_the_heartbeat(network: Network, through: Through) -> None:
    """Nothing passes for 2 s, half the heartbeat; then all that was sent."""
    async with through("blackhole of 2 s, heartbeat 4"):
        for line in network.lines:
            line.silence()
        await asyncio.sleep(2)
        for line in network.lines:
            line.heal()


async def test_blackhole_longer_than_the_heartbeat(network: Network, through: Through) -> None:
    """Nothing passes for so long that both sides give up; workers and senders notice, and say so."""
    async with through("blackhole of 10 s, heartbeat 4") as stream:
        for line in network.lines:
            line.silence()
        await asyncio.sleep(10)
        await all_ill(stream)
        for line in network.lines:
            line.heal()
    stream.told_of_illness()
    assert sum(sent.unconfirmed for sent in stream.sent.values()) > 0


async def test_latency(network: Network, through: Through) -> None:
    """Each way takes 200 ms: work goes on meanwhile."""
    async with through("200 ms each way") as stream:
        for line in network.lines:
            line.to_server.delay = line.to_client.delay = 0.2
        await asyncio.sleep(4)
        await stream.ran_everywhere(since=time.time())
        for line in network.lines:
            line.heal()
    assert all(answer.status == 200 for answer in stream.answers)


async def test_bandwidth(network: Network, through: Through) -> None:
    """A line carries 50 kB/s: work goes on meanwhile."""
    async with through("50 kB/s") as stream:
        for line in network.lines:
            line.to_server.bandwidth = line.to_client.bandwidth = 50_000
        await asyncio.sleep(5)
        await stream.ran_everywhere(since=time.time())
        for line in network.lines:
            line.heal()


async def test_drip(network: Network, through: Through) -> None:
    """Single bytes, 250 a second: the connection lives, and carries next to nothing."""
    async with through("single bytes, 250 a second"):
        for line in network.lines:
            line.to_server.drip = line.to_client.drip = 0.004
        await asyncio.sleep(8)
        for line in network.lines:
            line.heal()


@pytest.mark.parametrize("method", [BASIC_DELIVER, BASIC_PUBLISH], ids=["delivery", "publish"])
async def test_cut_inside_a_frame(
    network: Network, through: Through, method: int, request: pytest.FixtureRequest
) -> None:
    """Connections break within the head, the method, the content header and the body of a message."""
    async with through(f"cut inside a {request.node.callspec.id}"):
        for after in (1, 6, 30, 90, 130, 250):
            for line in [network.sender] if method == BASIC_PUBLISH else [network.first, network.second]:
                async with asyncio.timeout(NOTICED):
                    await line.cut_inside(method, after)


async def test_refused(network: Network, through: Through) -> None:
    """Connections are cut, and new ones are refused for some seconds."""
    async with through("refused for a while") as stream:
        for line in network.lines:
            await line.stop()
        await asyncio.sleep(4)
        await all_ill(stream)
        for line in network.lines:
            await line.__aenter__()
    stream.told_of_illness()


@pytest.mark.parametrize(
    ("to_server", "to_client"),
    [(True, True), (True, False), (False, True)],
    ids=["blackhole", "nothing to the broker", "nothing to the worker"],
)
async def test_one_of_two_workers_is_cut_off(
    network: Network, through: Through, to_server: bool, to_client: bool, request: pytest.FixtureRequest
) -> None:
    """A worker that is cut off with ordered and limited work in hand stops it before the broker gives it away."""
    async with through(f"{request.node.callspec.id}, one of two", heartbeat=HEARTBEAT, health_limit=1) as stream:
        station = stream.station
        head = await stream.send_long(FIFO, LONG, AGAIN)
        for _ in range(2):  # of three slots
            await stream.send_long(POOL, LONG / 2, AGAIN)
        begun = await station.log.until(lambda: station.log.of("start", id=head), NOTICED)
        victim = station.worker(begun[0].pid)
        line = network.first if victim is station.workers[0] else network.second
        cut_at = time.time()
        line.silence(to_server=to_server, to_client=to_client)
        await station.log.until(lambda: [run for run in station.log.of("start", id=head) if run.pid != victim.pid], 20)
        line.heal()
    stream.told_of_illness([victim])
    runs = station.spans(id=head)
    zombie, successor = runs[0], next(run for run in runs if run.event.pid != victim.pid)
    print(
        f"stopped {zombie.end - cut_at:.2f} s after the cut, {successor.start - zombie.end:.2f} s before the next run"
    )
    assert successor.start < zombie.start + LONG, "the broker gave the head away too late: this test showed nothing"
    assert all(run.end <= successor.start for run in runs if run.event.pid == victim.pid)
