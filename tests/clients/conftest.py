"""One site for all tests of a process: they share its queues and keys, so each takes names of its own."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from qstash import AsyncQStash, QStash

from tests.clients.calls import Calls
from tests.clients.server import Site, site
from tests.endpoint import Endpoint
from tests.rooms import empty_schema, new_prefix, sweep


@pytest.fixture(scope="session")
def running(rabbitmq_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`taskq api` and a worker with a beat, on RabbitMQ and PostgreSQL."""
    prefix = new_prefix()
    with empty_schema(postgres_url) as store:
        try:
            folder = tmp_path_factory.mktemp("site")
            with site(broker=rabbitmq_url, store=store, prefix=prefix, folder=folder) as found:
                yield found
        finally:
            sweep(rabbitmq_url, prefix, [store])


@pytest.fixture
def endpoint(running: Site) -> Endpoint:
    """Where deliveries may go."""
    return running.endpoint


@pytest.fixture
def name() -> Callable[[], str]:
    """Makes names that no other test has: of queues, URL groups, schedules, keys, labels."""
    stem, numbers = uuid.uuid4().hex[:8], itertools.count(1)
    return lambda: f"t-{stem}-{next(numbers)}"


@pytest.fixture
def path(name: Callable[[], str]) -> Callable[[], str]:
    """Makes paths of the endpoint that no other test has."""
    return lambda: f"/{name()}"


@pytest.fixture(params=[QStash, AsyncQStash], ids=["blocking", "async"])
async def api(request: pytest.FixtureRequest, running: Site, anyio_backend: str) -> AsyncIterator[Calls]:
    """The official client, of each kind."""
    calls = Calls(request.param(running.token, base_url=running.url, retry=False))
    yield calls
    await calls.close()


@pytest.fixture
async def raw(running: Site, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """For what the client has no call: plain requests, with the token."""
    headers = {"Authorization": f"Bearer {running.token}"}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client:
        yield client
