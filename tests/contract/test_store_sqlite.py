"""The store contract on SQLite, and what only a file must do: stand beside other processes, and say when it cannot."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from taskq.errors import StoreUnavailable
from taskq.outcome import Status
from taskq.store import lines, open_store
from taskq.store.base import Store
from tests.contract.store_contract import StoreContract
from tests.contract.store_support import differences, end, make, settle, status
from tests.support import pulse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder to be made" / "t.db"


class TestSQLite(StoreContract):
    @pytest.fixture
    def url(self, path: Path) -> str:
        return f"sqlite:///{path}"

    @pytest.fixture
    def spoil(self, path: Path) -> Callable[[str], None]:
        def run(statement: str) -> None:
            connection = sqlite3.connect(path)
            with connection:
                connection.execute(statement)
            connection.close()

        return run

    @pytest.fixture
    def inspect_schema(self, path: Path) -> Callable[[], list]:
        return lambda: differences(sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool))

    async def test_safe_file(self, store: Store, path: Path) -> None:
        """The file is in WAL mode, so that readers and writers do not wait for each other."""
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()

    async def test_locked(self, url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that another process keeps out gives up in bounded time; readers go on; it heals by itself."""
        monkeypatch.setattr(lines, "BUSY_SECONDS", 0.5)
        store = open_store(url)
        await store.open()
        message = make()
        await settle(store, end(message))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        writing = asyncio.create_task(store.cancel("x"))
        assert await status(store, message) is Status.SUCCEEDED
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await writing
        assert 0.4 < time.monotonic() - begun < 3 + pulse.lost()
        other.execute("ROLLBACK")
        other.close()
        assert await store.cancel("x") == "asked"
        await store.close()

    async def test_no_database(self, tmp_path: Path) -> None:
        """A file that is no database, or lies where none can be, is told by its place."""
        (tmp_path / "text").write_text("this is no database" * 100)
        for place in (tmp_path / "text", tmp_path / "text" / "t.db", tmp_path):
            store = open_store(f"sqlite:///{place}")
            with pytest.raises(StoreUnavailable, match=str(tmp_path)):
                await store.open()
            await store.close()

    async def test_killed_process(self, url: str) -> None:
        """What a process had settled when it was killed is there, and its file can be used at once."""
        program = (
            "import asyncio, os, signal\n"
            "from taskq.store import open_store\n"
            "from tests.contract.store_support import end, make\n"
            "async def main():\n"
            f"    store = open_store({url!r})\n"
            "    await store.open()\n"
            "    print(await store.settle([end(make(id='before'))]), flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True
        )
        assert "applied" in process.stdout, process.stderr
        store = open_store(url)
        await store.open()
        assert await status(store, make(id="before")) is Status.SUCCEEDED
        await store.close()

    async def test_program_ends(self, url: str) -> None:
        """A program that never closes its store ends within a second of its last line."""
        program = (
            "import asyncio, time\n"
            "from taskq.store import open_store\n"
            f"store = open_store({url!r})\n"
            "asyncio.run(store.open())\n"
            "print(time.time())\n"
        )
        process = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True
        )
        assert process.returncode == 0 and process.stderr == ""
        assert time.time() - float(process.stdout) < 10 + pulse.lost()  # a thread that is waited for would never end

    async def test_up_to_date_is_fast(self, url: str, store: Store) -> None:
        """A store that is up to date opens in well under 50 ms, without loading Alembic."""
        program = (
            "import asyncio, sys, time\n"
            "from taskq.store import open_store\n"
            f"store = open_store({url!r})\n"
            "begun = time.perf_counter()\n"
            "asyncio.run(store.open())\n"
            "print(time.perf_counter() - begun, 'alembic' in sys.modules)\n"
        )
        process = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True
        )
        seconds, loaded = process.stdout.split()
        assert loaded == "False" and float(seconds) < 5 + pulse.lost()  # what it takes is measured by benchmarks


class TestMemory:
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_of_its_own(self) -> None:
        """Stores in memory are apart, and keep what they were told while they are open."""
        one, other = open_store("sqlite://"), open_store("sqlite://")
        await one.open()
        await other.open()
        message = make()
        await settle(one, end(message))
        assert await status(one, message) is Status.SUCCEEDED
        assert await status(other, message) is Status.UNKNOWN
        await one.close()
        await other.close()
