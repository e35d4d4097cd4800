"""Who imports whom: the walls that docs/architecture.md draws, held against the source itself.

Imports inside functions count; those under TYPE_CHECKING do not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "taskq"

GROUND = {
    "errors", "clock", "duration", "expression", "queue", "retry", "message", "outcome", "serialization", "settings",
    "context", "group", "timetable", "flow", "collector", "http.request",
}  # fmt: skip
PORTS = {"broker.base", "store.base", "store.gateway"}
SHARED = GROUND | PORTS | {"dispatch", "dead_letter"}
OPENERS = {"broker", "store"}  # the two packages: open_broker(url), open_store(url)

# Room -> what it may import besides itself. The most special name decides.
MAY_IMPORT = {
    **{name: GROUND for name in GROUND},
    "broker.base": GROUND,
    "store.base": GROUND | {"store.gateway"},
    "store.gateway": GROUND,
    "http": GROUND | PORTS,
    "broker": GROUND,
    "store": GROUND,
    "dispatch": GROUND | PORTS,
    "dead_letter": GROUND | PORTS,
    "seat": GROUND | PORTS,
    "schedule": GROUND | PORTS | {"http"},
    "beat": SHARED | {"seat", "schedule"},
    "schedules": SHARED | {"app", "handle", "schedule", "task"},
    "handle": GROUND,
    "task": GROUND | {"handle"},
    "client": SHARED | {"handle", "task"},
    "app": SHARED | OPENERS | {"client", "handle", "task", "schedule", "schedules"},
    "default": {"app"},
    "load": GROUND | {"app", "default"},
    "keeper": SHARED | {"seat"},
    "worker": SHARED | {"http", "app", "client", "handle", "task", "keeper", "beat", "load"},
    "admin": SHARED | {"client", "handle"},
    "api": SHARED | {"", "app", "client", "handle", "task", "admin", "http", "schedule", "schedules"},
    "cli": SHARED | {"app", "default", "client", "handle", "task", "worker", "admin", "api", "", "keeper", "load"},
    "__main__": {"cli"},
    "": GROUND | {"app", "default", "handle", "task"},
}

FOREIGN = {
    "aiormq": {"broker.rabbitmq"},
    "pamqp": {"broker.rabbitmq"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "click": {"cli"},
    "rich": {"cli"},
    "anyio": {"worker", "keeper", "seat", "beat"},
    "fastapi": {"api"},
    "starlette": {"api"},
    "uvicorn": {"api.server", "api.protocol"},
    "pydantic": {"settings", "task", "handle", "api"},
    "platformdirs": {"settings"},
    "uvloop": {"app"},
    "httpx": {"http.delivery", "api.chat"},
    "httpcore": {"http.network", "http.exchange", "http.pool"},
    "h11": {"http.exchange"},
    "jwt": {"http.signing"},
    "watchfiles": {"worker.supervisor", "cli.dev"},
    # Wire forms of our own: envelopes, dead letters, replies, broadcasts, frames to children.
    "msgpack": {"message", "serialization", "dead_letter", "dispatch", "client", "worker", "admin", "http.request"},
}


def modules() -> dict[str, Path]:
    """Every module of taskq, named within it: `broker.base`; "" is the package itself."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """The full names that a file imports, wherever it does so, but for typing only."""
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path}: relative imports hide who imports whom"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("taskq.") in MODULES else node.module


def running(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        for other in node.orelse:
            yield from running(other)
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)


OURS = {
    name: {one.removeprefix("taskq").removeprefix(".") for one in imports(path) if one.split(".")[0] == "taskq"}
    for name, path in MODULES.items()
}


def within(name: str, rooms: set[str]) -> bool:
    """The module is one of the rooms, or in one."""
    return any(name == room or (room and name.startswith(f"{room}.")) for room in rooms)


def room_of(name: str) -> str:
    """The most special room of the table that holds the module."""
    return max((room for room in MAY_IMPORT if within(name, {room})), key=len)


def allowed(name: str, imported: str) -> bool:
    room, may = room_of(name), MAY_IMPORT[room_of(name)]
    own = room.split(".")[0]
    if imported == own or imported.startswith(f"{own}."):
        # Within a room all are free, but for the ports: they know nobody.
        return room not in PORTS or imported in may
    # "broker" and "store" open the package's own function, not what is inside.
    return imported in may or within(imported, may - OPENERS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_stay_within_the_walls(name: str) -> None:
    """A module imports only what the map lets its room import."""
    assert {one for one in OURS[name] if not allowed(name, one)} == set()


def test_no_cycles() -> None:
    """No module imports itself by way of others, late imports included."""
    try:
        TopologicalSorter(OURS).prepare()
    except CycleError as error:
        raise AssertionError(f"a cycle: {error.args[1]}") from error


def test_foreign_libraries_have_their_rooms() -> None:
    """A foreign library is imported only where its errors and its names are translated."""
    strays = set()
    for name, path in MODULES.items():
        for one in imports(path):
            library = one.split(".")[0]
            if library == "taskq" or library in sys.stdlib_module_names:
                continue
            if not within(name, FOREIGN.get(library, set())):
                strays.add((name, library))
    assert strays == set()


def test_adapters_are_strangers() -> None:
    """Broker and store adapters do not know each other."""
    for name, names in OURS.items():
        if within(name, {"broker"}):
            assert not any(within(one, {"store"}) for one in names), name
        if within(name, {"store"}):
            assert not any(within(one, {"broker"}) for one in names), name


def test_importing_taskq_loads_no_library_that_it_need_not() -> None:
    """`import taskq` loads neither the broker's nor the store's library, nor pydantic, nor the command line's."""
    import subprocess

    script = "import sys, taskq; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"aiormq", "sqlalchemy", "alembic", "pydantic", "click", "rich", "anyio", "httpx", "httpcore", "jwt"}
    assert heavy & set(loaded) == set()
    # What the store's port says is for who asks it, and settings are read when an app is made.
    script = "import sys; from taskq import Queue, TaskQ, task; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "taskq.app" in loaded and {"taskq.store.base", "pydantic"} & set(loaded) == set()


def test_an_idle_worker_loads_no_library_that_it_need_not(tmp_path: Path) -> None:
    """A worker that has just made its store in a SQLite file holds nothing of beat, HTTP, migrations or PostgreSQL."""
    import subprocess

    script = (
        "import asyncio, sys\n"
        "import taskq.cli.root, taskq.cli.worker, taskq.worker.serve, taskq.broker.rabbitmq.adapter\n"
        "from taskq.store import open_store\n"
        f"store = open_store('sqlite:///{tmp_path}/taskq.db')\n"
        "asyncio.run(store.open())\n"
        "print(*sys.modules)\n"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"alembic", "fastapi", "h2", "http.server", "httpcore", "httpx", "jwt", "rich", "psycopg", "watchfiles"}
    heavy |= {
        "sqlalchemy.dialects.postgresql",
        "sqlalchemy.orm",
        "taskq.beat",
        "taskq.timetable",
        "taskq.worker.supervisor",
    }
    assert "sqlalchemy" in loaded and heavy & set(loaded) == set()
