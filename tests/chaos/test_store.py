"""Faults of the store: a PostgreSQL that goes away or hangs up, a SQLite file that cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from taskq.dispatch import task_queue
from tests.chaos.stream import OPEN, Ledger, Stream
from tests.integration.harness import Station, WorkerProcess
from tests.integration.outcomes import SqliteOutcomes
from tests.servers import CannotStart, PostgresServer
from tests.services import make_postgres, need
from tests.support import eventually

Note = Callable[[Ledger], None]
Consumers = Callable[[], Awaitable[bool]]
pytestmark = pytest.mark.timeout(300)
MB = 1 << 20


@pytest.fixture
def asked(rabbitmq_url: str) -> Callable[[], str]:
    """The broker has no faults here: all tests share it."""
    return lambda: rabbitmq_url


async def told_ill(fault: Stream, timeout: float = 30) -> None:  # noqa: ASYNC109
    """Wait until every worker has said on /health that it does not record."""

    def check() -> bool:
        for worker in fault.station.workers:
            seen = {answer.status for answer in fault.answers if answer.worker == worker.pid}
            assert 503 in seen, f"worker {worker.pid} has answered {seen} so far"
        return True

    await eventually(check, timeout)


async def ready(station: Station) -> int:
    """Messages on the open queue of the stream that no worker has taken."""
    depth = await (await station.app.client().broker()).depth(task_queue(OPEN.name))
    assert depth is not None
    return depth.ready


def resident(worker: WorkerProcess) -> int:
    """Bytes of memory that the worker's process holds."""
    pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- PostgreSQL --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this module's own."""
    server = make_postgres()
    server.start()
    yield server
    server.stop()


class OnPostgres:
    """A station on the private PostgreSQL and the shared broker."""

    @pytest.fixture
    def postgres_store_url(self, server: PostgresServer, stores: list[str]) -> str:
        """An empty schema; it ends with its server, and no connection stands meanwhile."""
        schema = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{schema}"')
        stores.append(f"{server.url}?options=-csearch_path%3D{schema}")
        return stores[-1]

    @pytest.fixture
    async def station(
        self, rabbitmq_url: str, postgres_store_url: str, prefix: str, tmp_path: Path, anyio_backend: str
    ) -> AsyncIterator[Station]:
        station = Station(broker=rabbitmq_url, store=postgres_store_url, prefix=prefix, folder=tmp_path)
        yield station
        await station.close()


class TestPostgres(OnPostgres):
    @pytest.mark.parametrize("how", ["restarted", "kill -9"])
    async def test_restart(
        self, server: PostgresServer, stream: Callable[..., Stream], note: Note, consumers: Consumers, how: str
    ) -> None:
        """PostgreSQL is stopped in good order, or killed, under load, and started; three times."""
        fault, back = stream(f"PostgreSQL: {how}, 3 times"), 0.0
        async with fault.flowing():
            for _ in range(3):
                await asyncio.to_thread(server.kill if how == "kill -9" else server.shut_down)
                await asyncio.to_thread(server.start)
                back = max(back, await fault.mended(consumers))
            note(await fault.checked(back=back))

    async def test_connections_killed(
        self, server: PostgresServer, stream: Callable[..., Stream], note: Note, consumers: Consumers
    ) -> None:
        """All connections of PostgreSQL are ended by its operator, again and again, also between a commit and its
        answer."""
        fault, killed = stream("PostgreSQL: connections killed"), 0
        async with fault.flowing():
            with psycopg.connect(server.url, autocommit=True) as operator:
                for _ in range(25):
                    found = operator.execute(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                    ).fetchone()
                    killed += found[0] if found else 0
                    await asyncio.sleep(0.2)
            back = await fault.mended(consumers)
            ledger = await fault.checked(back=back)
        assert killed > 25, f"only {killed} connections were there to be ended"
        note(ledger)


class TestPostgresForLong(OnPostgres):
    async def test_away_for_a_minute(
        self, server: PostgresServer, station: Station, stream: Callable[..., Stream], note: Note, consumers: Consumers
    ) -> None:
        """While PostgreSQL is away workers say so and take no more than they hold; the rest stays in the broker."""
        fault = stream("PostgreSQL: away for 60 s", pace=0.1)
        async with fault.flowing():
            await asyncio.to_thread(server.shut_down)
            gone = time.time()
            try:
                await told_ill(fault)
                ill = max(
                    min(a.at for a in fault.answers if a.worker == w.pid and a.status == 503) for w in station.workers
                )
                begun, waiting = len(station.log.of("start")), await ready(station)
                weights = {worker: resident(worker) for worker in station.workers}
                await asyncio.sleep(gone + 60 - time.time())
                assert len(station.log.of("start")) - begun < 20, "what began cannot be recorded: it must be little"
                grown = await ready(station) - waiting
                sent = len(fault.sent[OPEN.name].confirmed)
                assert grown > sent / 4, f"{sent} were sent, and only {grown} stayed in the broker"
                heavier = max(resident(worker) - weight for worker, weight in weights.items())
                assert heavier < 20 * MB, f"a worker grew by {heavier / MB:.0f} MB while it could not record"
            finally:
                await asyncio.to_thread(server.start)
            back = await fault.mended(consumers)
            fault.told_of_illness()
            note(await fault.checked(back=back, within=120))
        print(f"ill on /health after {ill - gone:.1f} s; {grown} more in the broker; heavier by {heavier / MB:.1f} MB")


# -- SQLite ------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of some megabytes, in memory.

    Raises:
        CannotStart: it cannot be mounted: this needs root.
    """

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._ballast = path / "ballast"
        path.mkdir()
        if os.geteuid() != 0:
            raise CannotStart("a disk that fills up is a file system of the test's own, which only root can mount")
        self._mount("-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path))

    def _mount(self, *words: str) -> None:
        done = subprocess.run([need("mount", "mount"), *words], capture_output=True, text=True)
        if done.returncode:
            raise CannotStart(f"mount {' '.join(words)}: {done.stderr.strip()}")

    @property
    def free(self) -> int:
        """Bytes."""
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_bsize

    def fill(self, leave: int) -> None:
        """Leave so many bytes free."""
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, self.free - leave)

    def empty(self) -> None:
        """After `fill`."""
        self._ballast.unlink()

    def writable(self, yes: bool) -> None:
        """Whether it lets anybody write; nobody may have a file open for writing when it is to end."""
        self._mount("-o", f"remount,{'rw' if yes else 'ro'}", str(self.path))

    def close(self) -> None:
        subprocess.run([need("umount", "mount"), "--lazy", str(self.path)], check=True)


class OnSqlite:
    """A station on a SQLite file, which lies in `folder`, and the shared broker."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def database(self, folder: Path) -> Path:
        return folder / "taskq.db"

    @pytest.fixture
    async def station(
        self, rabbitmq_url: str, database: Path, stores: list[str], prefix: str, tmp_path: Path, anyio_backend: str
    ) -> AsyncIterator[Station]:
        stores.append(f"sqlite:///{database}")
        station = Station(broker=rabbitmq_url, store=stores[-1], prefix=prefix, folder=tmp_path)
        yield station
        await station.close()

    @pytest.fixture
    async def outcomes(self, station: Station, database: Path) -> SqliteOutcomes:
        await station.store()
        outcomes = SqliteOutcomes(database)
        outcomes.watch()
        return outcomes


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Have another process hold the database's only lock for writing."""
    command = [sys.executable, "-c", LOCK, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            other.kill()


class TestSqlite(OnSqlite):
    async def test_locked(
        self, database: Path, stream: Callable[..., Stream], note: Note, consumers: Consumers
    ) -> None:
        """Another process keeps the database locked for 20 s: work stops, /health says so, and all goes on."""
        fault = stream("SQLite: locked for 20 s", pace=0.08)
        async with fault.flowing():
            with locked(database):
                since = time.time()
                await told_ill(fault)
                await asyncio.sleep(since + 20 - time.time())
            back = await fault.mended(consumers)
            fault.told_of_illness()
            note(await fault.checked(back=back))

    async def test_writes_refused(self, stream: Callable[..., Stream], note: Note, consumers: Consumers) -> None:
        """The file system turns read-only beneath workers that have the file open: writes fail, and then work."""
        fault = stream("SQLite: writes refused (EROFS)", pace=0.08)
        async with fault.flowing():
            with contextlib.ExitStack() as tracers:
                for worker in fault.station.workers:
                    tracers.enter_context(writes_fail(worker.pid, "EROFS"))
                await told_ill(fault)
            back = await fault.mended(consumers)
            fault.told_of_illness()
            note(await fault.checked(back=back))


@contextlib.contextmanager
def writes_fail(pid: int, error: str) -> Iterator[None]:
    """Have the kernel's answer to every `pwrite` of the process, by which SQLite alone writes, be this error."""
    inject = ["-e", "trace=pwrite64,pwritev,ftruncate,fallocate", "-e", f"inject=pwrite64:error={error}"]
    command = [need("strace", "strace"), "-f", "-o", "/dev/null", *inject, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        try:
            assert tracer.stderr is not None
            told = tracer.stderr.readline()
            assert b"attached" in told, told
            yield
        finally:
            tracer.terminate()


class TestSqliteOnSmallDisk(OnSqlite):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[SmallDisk]:
        disk = SmallDisk(tmp_path / "disk", 64)
        yield disk
        disk.close()

    @pytest.fixture
    def folder(self, disk: SmallDisk) -> Path:
        return disk.path

    async def test_full(self, disk: SmallDisk, stream: Callable[..., Stream], note: Note, consumers: Consumers) -> None:
        """The database grows until the disk is full: nothing more is recorded, until there is room again."""
        fault = stream("SQLite: disk full", pace=0.08)
        async with fault.flowing():
            disk.fill(leave=MB // 4)
            await told_ill(fault)
            assert disk.free < MB // 8, f"{disk.free} bytes are free"
            disk.empty()
            back = await fault.mended(consumers)
            fault.told_of_illness()
            note(await fault.checked(back=back))
        assert any("full" in worker.said() for worker in fault.station.workers)

    async def test_read_only_at_the_start(self, disk: SmallDisk, station: Station) -> None:
        """A worker that finds its store read-only ends and says so; its messages stay for one that can write."""
        await station.ensure(OPEN)
        handles = await station.send(OPEN, [{"number": n} for n in range(50)])
        await station.app.close()  # who has the file open for writing keeps the disk from being read-only
        disk.writable(False)
        worker = station.start([OPEN.name])
        worker.breaks_down = True
        assert await worker.ended() != 0
        assert str(disk.path) in worker.said() and "may be written" in worker.said(), worker.said()
        assert await ready(station) == 50
        disk.writable(True)
        await station.start_ready(1, [OPEN.name])
        assert await station.all_recorded(handles) == {"SUCCEEDED": 50}
        assert len(station.log.of("start")) == 50
