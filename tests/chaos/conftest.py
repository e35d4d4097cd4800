"""What chaos tests share: nodes of their own, a station with its stream, and the table of ledgers at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aio_pika
import pytest

from tests.chaos.stream import FIFO, LANES, OPEN, POOL, Ledger, Stream
from tests.integration.harness import Station
from tests.integration.outcomes import Outcomes
from tests.servers import RabbitNode
from tests.services import make_node

ROW = "ledger"


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitNode]:
    """A RabbitMQ of this module's own, to be killed and cut off."""
    node = make_node()
    node.start()
    yield node
    node.stop()


@pytest.fixture
async def station(
    node: RabbitNode, postgres_store_url: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On the module's node and PostgreSQL. Its prefix is its own: what a test left on the node harms no other."""
    station = Station(broker=node.url, store=postgres_store_url, prefix=f"chaos-{tmp_path.name[-40:]}", folder=tmp_path)
    yield station
    await station.close()


@pytest.fixture
async def outcomes(station: Station, postgres_store_url: str) -> Outcomes:
    """Counts what the station's store records."""
    await station.store()
    outcomes = Outcomes(postgres_store_url)
    outcomes.watch()
    return outcomes


@pytest.fixture
async def stream(station: Station, outcomes: Outcomes) -> Callable[..., Stream]:
    """Makes the stream of a fault: `stream("a word for the table")`."""

    def make(fault: str, **options: float) -> Stream:
        return Stream(station, outcomes, fault, **options)

    return make


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[Ledger], None]:
    """Puts a ledger into the table that is printed at the end of the run."""

    def keep(ledger: Ledger) -> None:
        record_property(ROW, ledger.row())

    return keep


@pytest.fixture
def asked(node: RabbitNode) -> Callable[[], str]:
    """The URL of the broker that is asked for its consumers; a module with other brokers overrides it."""
    return lambda: node.url


@pytest.fixture
def consumers(asked: Callable[[], str], station: Station) -> Callable[[], Awaitable[bool]]:
    """Checks at the broker that every queue, lane and slot of the stream has its consumers."""

    async def check() -> bool:
        workers = sum(worker.running for worker in station.workers)
        wanted = {f"q.{OPEN.name}": workers, f"q.{FIFO.name}": 1, f"q.{POOL.name}": 1, "slot.keeper.0": 1}
        wanted |= {"waiting": 1, "dead": 1}
        wanted |= {f"lane.{LANES.name}.{i}": 1 for i in range(LANES.partitions or 0)}
        wanted |= {f"slot.{POOL.name}.{i}": 1 for i in range(POOL.parallelism or 0)}
        try:
            async with await aio_pika.connect(asked(), timeout=5) as connection:
                channel = await connection.channel()
                for name, least in wanted.items():
                    declared = await channel.declare_queue(f"{station.prefix}.{name}", passive=True)
                    has = declared.declaration_result.consumer_count
                    assert has is not None and has >= least, f"{name} has {has} consumers of {least}"
        except (aio_pika.exceptions.AMQPError, OSError) as error:
            raise AssertionError(f"the broker cannot tell of its consumers: {error}") from error
        return True

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A row per fault."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [json.loads(str(value)) for report in reports for name, value in report.user_properties if name == ROW]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(Ledger.table(sorted(rows, key=lambda row: str(row["fault"]))))
