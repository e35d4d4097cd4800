"""A station for every test: RabbitMQ, a store, a prefix of its own, and workers as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.harness import Station
from tests.integration.outcomes import Outcomes
from tests.integration.room import Room


@pytest.fixture
async def station(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On PostgreSQL."""
    station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path)
    yield station
    await station.close()


@pytest.fixture
async def sqlite_station(
    rabbitmq_url: str, sqlite_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Station]:
    """On a SQLite file."""
    station = Station(broker=rabbitmq_url, store=sqlite_store_url, prefix=prefix, folder=tmp_path)
    yield station
    await station.close()


@pytest.fixture
async def outcomes(station: Station, postgres_store_url: str) -> Outcomes:
    """Counts what the station's store records."""
    await station.store()
    outcomes = Outcomes(postgres_store_url)
    outcomes.watch()
    return outcomes


@pytest.fixture(params=["memory", "rabbitmq"])
async def room(
    request: pytest.FixtureRequest, sqlite_store_url: str, prefix: str, anyio_backend: str
) -> AsyncIterator[Room]:
    """In this process, on SQLite: the test runs once on each broker."""
    broker = f"memory://{prefix}" if request.param == "memory" else str(request.getfixturevalue("rabbitmq_url"))
    room = Room(broker=broker, store=sqlite_store_url, prefix=prefix)
    yield room
    await room.close()


@pytest.fixture
async def rabbit_room(rabbitmq_url: str, sqlite_store_url: str, prefix: str, anyio_backend: str) -> AsyncIterator[Room]:
    """In this process, on SQLite and RabbitMQ."""
    room = Room(broker=rabbitmq_url, store=sqlite_store_url, prefix=prefix)
    yield room
    await room.close()
