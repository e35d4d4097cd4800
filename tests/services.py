"""The RabbitMQ and the PostgreSQL that tests, benchmarks and developers use: found, else started.

For each of the two, the first that holds:
1. `TASKQ_TEST_BROKER`, `TASKQ_TEST_STORE`: URLs of servers to use as they are
2. a local server on its standard port that lets us in (guest; the user postgres)
3. a private one, started from installed programs and ended with its data
4. the same, after installing Debian's packages, when we are root; no system service is left running
5. a container (testcontainers), where Docker runs
else an error that says what to do.

    python -m tests.services run COMMAND…   runs it with both URLs in its environment
    python -m tests.services up | down      RabbitMQ on port 5679 and PostgreSQL on 5439, until `down`
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.servers import (
    ROOT_VARIABLE,
    CannotStart,
    PostgresServer,
    RabbitCluster,
    RabbitNode,
    answers,
    postgres_programs,
    rabbit_programs,
)

BROKER_VARIABLE, STORE_VARIABLE = "TASKQ_TEST_BROKER", "TASKQ_TEST_STORE"
UP_BROKER_PORT, UP_STORE_PORT = 5679, 5439
STANDARD_BROKER = "amqp://guest:guest@127.0.0.1:5672/"
STANDARD_STORE = "postgresql://postgres@127.0.0.1:5432/postgres"
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Service:
    """A server to use: its URL, how it was come by, and how to end it (what we did not start goes on)."""

    url: str
    how: str
    stop: Callable[[], None]


@dataclass(frozen=True)
class Wanted:
    """One of the two kinds, and what is particular to it."""

    what: str
    variable: str
    standard: str
    lets_in: Callable[[str], bool]
    installed: Callable[[], object]
    package: str
    server: Callable[[Path, bool], RabbitNode | PostgresServer]
    contain: Callable[[], Service]


# -- is it there? ---------------------------------------------------------------------------


def broker_lets_in(url: str) -> bool:
    """A RabbitMQ answers at the URL and accepts its user."""
    import asyncio

    import aio_pika

    async def try_it() -> None:
        await (await aio_pika.connect(url, timeout=5)).close()

    if not answers(5672):
        return False
    try:
        asyncio.run(try_it())
    except (OSError, aio_pika.exceptions.AMQPError, TimeoutError):
        return False
    return True


def store_lets_in(url: str) -> bool:
    """A PostgreSQL answers at the URL and accepts its user."""
    import psycopg

    if not answers(5432):
        return False
    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True


def docker_runs() -> bool:
    """A Docker engine answers, not only its client is installed."""
    docker = shutil.which("docker")
    return docker is not None and not subprocess.run([docker, "info"], capture_output=True, timeout=30).returncode


# -- getting one ------------------------------------------------------------------------------


def contain_broker() -> Service:
    """RabbitMQ in a container."""
    from testcontainers.rabbitmq import RabbitMqContainer

    container = RabbitMqContainer("rabbitmq:4", username="guest", password="guest")
    container.start()
    url = f"amqp://guest:guest@{container.get_container_host_ip()}:{container.get_exposed_port(5672)}/"
    return Service(url, "a container", container.stop)


def contain_store() -> Service:
    """PostgreSQL in a container."""
    from testcontainers.postgres import PostgresContainer

    container = PostgresContainer(
        "postgres:17", username="postgres", password="postgres", dbname="postgres", driver=None
    )
    container.start()
    return Service(container.get_connection_url(), "a container", container.stop)


BROKER = Wanted(
    "RabbitMQ",
    BROKER_VARIABLE,
    STANDARD_BROKER,
    broker_lets_in,
    rabbit_programs,
    "rabbitmq-server",
    lambda folder, durable: RabbitNode(folder),
    contain_broker,
)
STORE = Wanted(
    "PostgreSQL",
    STORE_VARIABLE,
    STANDARD_STORE,
    store_lets_in,
    postgres_programs,
    "postgresql",
    lambda folder, durable: PostgresServer(folder, durable=durable),
    contain_store,
)


def find(wanted: Wanted, folder: Path, durable: bool) -> Service:
    """The server to use, by the order above.

    Args:
        folder: where a private one may live.
        durable: a private PostgreSQL waits for the disk, as a real one does.

    Raises:
        CannotStart: there is none and none can be made.
    """
    named = os.environ.get(wanted.variable)
    if named:
        return Service(named, f"named by {wanted.variable}", lambda: None)
    another = wanted is BROKER and ROOT_VARIABLE in os.environ
    if not another and wanted.lets_in(wanted.standard):
        return Service(wanted.standard, "the local server", lambda: None)
    if wanted.installed():
        server = wanted.server(folder / wanted.package, durable)
        server.start()
        return Service(server.url, "a private server", server.stop)
    if docker_runs():
        return wanted.contain()
    raise CannotStart(
        f"no {wanted.what} for the tests. One of these helps: set {wanted.variable} to the URL of a server they may "
        f"write to; install it (apt-get install {wanted.package}) so that a private one can be started; run as root "
        "on Debian so that it can be installed; or start Docker"
    )


def find_both(durable: bool = False) -> tuple[Service, Service]:
    """The broker and the store; private ones live in one folder, named for this process, and start side by side.

    Raises:
        CannotStart: one of them cannot be had; the other was ended.
    """
    sweep()
    folder = own_folder()
    for wanted in (BROKER, STORE):  # one after the other: the package manager is not to be run twice at once
        if not os.environ.get(wanted.variable) and not wanted.installed() and not wanted.lets_in(wanted.standard):
            install(wanted.package)
    with ThreadPoolExecutor(2) as pool:
        attempts = [pool.submit(find, wanted, folder, durable) for wanted in (BROKER, STORE)]
    failures = [attempt.exception() for attempt in attempts if attempt.exception()]
    if failures:
        for attempt in attempts:
            if not attempt.exception():
                attempt.result().stop()
        shutil.rmtree(folder, ignore_errors=True)
        raise failures[0]  # type: ignore[misc]
    return attempts[0].result(), attempts[1].result()


@contextlib.contextmanager
def services(durable: bool = False) -> Iterator[tuple[Service, Service]]:
    """The broker and the store, for as long as the block runs."""
    broker, store = find_both(durable)
    try:
        yield broker, store
    finally:
        for service in (broker, store):
            service.stop()
        shutil.rmtree(home() / str(os.getpid()), ignore_errors=True)


# -- what is left behind ------------------------------------------------------------------------


def home() -> Path:
    """The folder of all private servers of this user; PostgreSQL's own user must be able to pass through."""
    path = Path(tempfile.gettempdir()) / f"taskq-services-{os.getuid()}"
    path.mkdir(exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise CannotStart(f"{path} belongs to another user; remove it or set TMPDIR")
    path.chmod(0o755)  # whatever the umask says
    return path


def own_folder() -> Path:
    """The folder of this process's servers, marked as its own for `sweep`; made if it is not there."""
    folder = _passable(str(os.getpid()))
    (folder / "owner").write_text(json.dumps([os.getpid(), born(os.getpid())]))
    return folder


def _passable(name: str) -> Path:
    folder = home() / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return folder


def born(pid: int) -> str:
    """When the process began, as the kernel counts: together with its id it is never used again. "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def sweep() -> None:
    """End servers whose owner is gone (a killed test run), with their data."""
    for folder in home().iterdir():
        owner = folder / "owner"
        try:
            pid, since = json.loads(owner.read_text())
        except (OSError, ValueError):
            if time.time() - folder.stat().st_mtime < 60:
                continue  # it is just being made
            pid, since = 0, "?"
        if folder.name != "up" and (not since or born(pid) != since):
            end_all_in(folder)


def end_all_in(folder: Path) -> None:
    """End every process whose environment or command names the folder, then delete it."""
    for step in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(folder):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, step)
        deadline = time.monotonic() + 5
        while processes_of(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """Processes that work in the folder, or were started with it as their home or data folder."""
    mark = f"{folder}/".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if pid == os.getpid() or not command:
                continue
            if mark in command or b"\0HOME=" + mark in b"\0" + (entry / "environ").read_bytes():
                found.append(pid)
    return found


# -- Debian's packages ---------------------------------------------------------------------------


def install(package: str) -> bool:
    """Install a package of Debian's, if we may; whether it is there now. Its service does not run afterwards."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    print(f"installing {package} with apt-get", file=sys.stderr, flush=True)
    ours = not POLICY.exists()
    if ours:  # Debian's way to say: start no service because of an installation
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = [apt, "install", "-y", "-q", "--no-install-recommends", package]
    try:
        if subprocess.run(command, env=environment, capture_output=True).returncode == 0:
            return True
        subprocess.run([apt, "update", "-q"], env=environment, capture_output=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"apt-get could not install {package}:\n{done.stderr[-2000:]}", file=sys.stderr)
        return done.returncode == 0
    finally:
        if ours:
            POLICY.unlink()
        if Path("/run/systemd/system").exists():  # nor is it to start at the next boot
            subprocess.run(["systemctl", "disable", "--now", "--quiet", package], capture_output=True)


def make_node(config: Mapping[str, str] | None = None) -> RabbitNode:
    """A RabbitMQ node of the caller's own, not started: to be killed, cut off or configured as no shared one may be.

    Raises:
        CannotStart: RabbitMQ is neither installed nor can be.
    """
    _need_rabbit()
    return RabbitNode(Path(tempfile.mkdtemp(prefix="node-", dir=own_folder())), config=config)


def make_cluster() -> RabbitCluster:
    """Three nodes of the caller's own, not started.

    Raises:
        CannotStart: RabbitMQ is neither installed nor can be.
    """
    _need_rabbit()
    return RabbitCluster(Path(tempfile.mkdtemp(prefix="cluster-", dir=own_folder())))


def _need_rabbit() -> None:
    if rabbit_programs() is None and not install(BROKER.package):
        raise CannotStart(f"this needs a RabbitMQ of its own: apt-get install {BROKER.package}")


def make_postgres() -> PostgresServer:
    """A PostgreSQL of the caller's own, not started: to be killed and stopped.

    Raises:
        CannotStart: PostgreSQL is neither installed nor can be.
    """
    if postgres_programs() is None and not install(STORE.package):
        raise CannotStart(f"this needs a PostgreSQL of its own: apt-get install {STORE.package}")
    return PostgresServer(Path(tempfile.mkdtemp(prefix="postgres-", dir=own_folder())))


def need(program: str, package: str) -> str:
    """The path of a program that a test runs, installed if it must be.

    Raises:
        CannotStart: it is missing and cannot be installed.
    """
    found = shutil.which(program) or (shutil.which(program) if install(package) else None)
    if found is None:
        raise CannotStart(f"{program} is missing: apt-get install {package}")
    return found


# -- commands ---------------------------------------------------------------------------------------


def up() -> None:
    """Start both for development, on fixed ports, to stay until `down`; prints what to set."""
    folder = _passable("up")
    for wanted, port in ((BROKER, UP_BROKER_PORT), (STORE, UP_STORE_PORT)):
        if not wanted.installed() and not install(wanted.package):
            raise CannotStart(f"no {wanted.what}: apt-get install {wanted.package}")
        if answers(port):
            continue
        if wanted is BROKER:
            RabbitNode(folder / wanted.package, port=port).start()
        else:
            PostgresServer(folder / wanted.package, port=port, durable=True).start()
    print(f"export TASKQ_BROKER=amqp://guest:guest@127.0.0.1:{UP_BROKER_PORT}/")
    print(f"export TASKQ_STORE=postgresql://postgres@127.0.0.1:{UP_STORE_PORT}/postgres")


def down() -> None:
    """End what `up` started, with its data."""
    end_all_in(home() / "up")


def run(command: list[str]) -> int:
    """Run a command with both URLs in its environment; its exit code."""
    with services(durable=True) as (broker, store):
        print(f"RabbitMQ: {broker.how}; PostgreSQL: {store.how}", file=sys.stderr, flush=True)
        urls = {name: url for kind in ("TEST", "BENCH") for name, url in _urls(kind, broker, store)}
        return subprocess.run(command, env=os.environ | urls).returncode


def _urls(kind: str, broker: Service, store: Service) -> list[tuple[str, str]]:
    return [(f"TASKQ_{kind}_BROKER", broker.url), (f"TASKQ_{kind}_STORE", store.url)]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["up"]:
            up()
        case ["down"]:
            down()
        case ["run", *command] if command:
            return run(command)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CannotStart as problem:
        sys.exit(str(problem))
