"""The API over memory and SQLite, or over each pair of servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.api.served import Served, calling
from tests.integration.room import Room


@pytest.fixture
async def served(sqlite_store_url: str, prefix: str, anyio_backend: str) -> AsyncIterator[Served]:
    """On memory and SQLite."""
    room = Room(broker=f"memory://{prefix}", store=sqlite_store_url, prefix=prefix)
    async with calling(room.app) as http:
        yield Served(room, http)
        await room.close()


@pytest.fixture
async def on_servers(
    rabbitmq_url: str, postgres_store_url: str, prefix: str, anyio_backend: str
) -> AsyncIterator[Served]:
    """On RabbitMQ and PostgreSQL."""
    room = Room(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix)
    async with calling(room.app) as http:
        yield Served(room, http)
        await room.close()


@pytest.fixture(params=["served", "on_servers"])
def anywhere(request: pytest.FixtureRequest) -> Served:
    """The test runs once on each."""
    served: Served = request.getfixturevalue(request.param)
    return served
