"""Fixtures of all tests: services that are found or started once, and a room of its own for every test.

`rabbitmq_url` and `postgres_url` are the servers (see `services`); `prefix` is a name nobody else
uses on the broker, swept from it after the test; `sqlite_store_url` and `postgres_store_url` are
stores without anything in them. `--without-services` runs what needs no server.
"""

from __future__ import annotations

import compileall
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest

from tests.rooms import empty_schema, new_prefix, sweep
from tests.servers import RabbitNode
from tests.services import BROKER_VARIABLE, STORE_VARIABLE, Service, make_node, services
from tests.support import pulse

NEED_A_SERVER = frozenset({"rabbitmq_url", "postgres_url", "rabbit_node"})

# How long an example takes depends on how busy the machine is, and says nothing about it.
hypothesis.settings.register_profile("taskq", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("taskq")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-services", action="store_true", help="leave out tests that need RabbitMQ or PostgreSQL")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--without-services"):
        left_out = [item for item in items if NEED_A_SERVER & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side (`-n`) share the servers: the process that deals them out starts them."""
    pulse.start()
    if not hasattr(config, "workerinput"):  # else each of hundreds of processes compiles, where none may write
        compileall.compile_dir(Path(__file__).parents[1] / "taskq", quiet=2)
    side_by_side = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if side_by_side and not config.getoption("--without-services"):
        found = contextlib.ExitStack()
        broker, store = found.enter_context(services())
        config.add_cleanup(found.close)
        os.environ.update({BROKER_VARIABLE: broker.url, STORE_VARIABLE: store.url})


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees settings of the developer's own shell."""
    for name in list(os.environ):
        if name.startswith("TASKQ_") and not name.startswith(("TASKQ_TEST_", "TASKQ_BENCH_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _pulse() -> None:
    pulse.begin()


# -- services ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _services() -> Iterator[tuple[Service, Service]]:
    with services() as found:
        yield found


@pytest.fixture(scope="session")
def rabbitmq_url(_services: tuple[Service, Service]) -> str:
    """A RabbitMQ that the tests may write to."""
    return _services[0].url


@pytest.fixture(scope="session")
def postgres_url(_services: tuple[Service, Service]) -> str:
    """A database of a PostgreSQL in which the tests may make schemas."""
    return _services[1].url


@pytest.fixture
def rabbit_node() -> Iterator[Callable[..., RabbitNode]]:
    """Starts RabbitMQ nodes that belong to this test alone: `rabbit_node({"consumer_timeout": "10000"})`."""
    nodes: list[RabbitNode] = []

    def make(config: Mapping[str, str] | None = None) -> RabbitNode:
        nodes.append(make_node(config))
        nodes[-1].start()
        return nodes[-1]

    yield make
    for node in nodes:
        node.stop()


# -- a room of its own for every test -----------------------------------------------------------


@pytest.fixture
def stores() -> list[str]:
    """URLs of the stores that this test was given."""
    return []


@pytest.fixture
def sqlite_store_url(tmp_path: Path, stores: list[str]) -> str:
    """A SQLite file that does not exist yet."""
    stores.append(f"sqlite:///{tmp_path / 'taskq.db'}")
    return stores[-1]


@pytest.fixture
def postgres_store_url(postgres_url: str, stores: list[str]) -> Iterator[str]:
    """An empty schema of the PostgreSQL, dropped after the test."""
    with empty_schema(postgres_url) as url:
        stores.append(url)
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty store: the test runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_store_url"))


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix that nothing on the broker begins with; all under it is deleted after the test."""
    name = new_prefix()
    if "rabbitmq_url" in request.fixturenames:
        url, stores = request.getfixturevalue("rabbitmq_url"), request.getfixturevalue("stores")
        yield name
        sweep(url, name, stores)
    else:
        yield name
