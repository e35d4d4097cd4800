"""A desk for every test: in this process, or on RabbitMQ and PostgreSQL where the test asks for both."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.endpoint import Endpoint
from tests.integration.api.reading.desk import Desk
from tests.integration.room import Room


@pytest.fixture
async def desk(request: pytest.FixtureRequest, prefix: str, anyio_backend: str) -> AsyncIterator[Desk]:
    """On memory and SQLite, or with the parameter "servers" on RabbitMQ and PostgreSQL."""
    if getattr(request, "param", "memory") == "memory":
        broker, store = f"memory://{prefix}", str(request.getfixturevalue("sqlite_store_url"))
    else:
        broker = str(request.getfixturevalue("rabbitmq_url"))
        store = str(request.getfixturevalue("postgres_store_url"))
    with Endpoint() as endpoint:
        room = Room(broker=broker, store=store, prefix=prefix)
        desk = Desk(room, endpoint)
        yield desk
        await desk.close()
        await room.close()
