"""The store contract on PostgreSQL, and what only a server can do: refuse, go away and come back."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from taskq.errors import StoreUnavailable
from taskq.outcome import Status
from taskq.store import adapter, lines, open_store, schema
from taskq.store.base import Settled, Store
from taskq.store.lines import Line, Tx, make_engine
from taskq.store.url import parse
from tests.contract.store_contract import StoreContract
from tests.contract.store_support import claim, differences, end, make, settle, status
from tests.proxy import Proxy
from tests.support import PATIENCE, eventually


@pytest.fixture
def name(postgres_url: str) -> Iterator[str]:
    """A schema of the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield name
        connection.execute(f"DROP SCHEMA {name} CASCADE")


def within(postgres_url: str, name: str) -> str:
    return f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-csearch_path%3D{name}"


class TestPostgreSQL(StoreContract):
    @pytest.fixture
    def url(self, postgres_url: str, name: str) -> str:
        return within(postgres_url, name)

    @pytest.fixture
    def spoil(self, url: str) -> Callable[[str], None]:
        def run(statement: str) -> None:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(statement)

        return run

    @pytest.fixture
    async def proxied(self, postgres_url: str, name: str) -> AsyncIterator[tuple[Proxy, Store]]:
        """An open store behind a proxy."""
        parts = sa.make_url(postgres_url)
        async with Proxy(parts.host or "127.0.0.1", parts.port or 5432) as proxy:
            through = parts.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            store = open_store(within(through, name))
            await store.open()
            yield proxy, store
            await store.close()

    @pytest.fixture
    def inspect_schema(self, url: str) -> Callable[[], list]:
        return lambda: differences(
            sa.create_engine("postgresql+psycopg" + url[url.index(":") :], poolclass=sa.NullPool)
        )

    async def test_first_start_of_two_at_once(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two processes find an empty database; who waits for the other, for as long as it takes, then takes the tables
        that it made."""
        monkeypatch.setattr(lines, "BUSY_SECONDS", 0.1)
        stores = [open_store(url), open_store(url)]
        with psycopg.connect(url, autocommit=True) as connection:
            key = f"({schema._LOCK}, hashtext(current_schema()))"
            connection.execute(f"SELECT pg_advisory_lock{key}")
            opening = [asyncio.create_task(store.open()) for store in stores]
            waiting = (
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
                " AND NOT granted AND (classid, objid) = (%s, hashtext(current_schema())::bit(32)::bigint::oid)"
                " AND clock_timestamp() > query_start + interval '0.3 seconds'"
            )
            try:
                await eventually(lambda: connection.execute(waiting, (schema._LOCK,)).fetchone() == (2,))
            finally:
                connection.execute(f"SELECT pg_advisory_unlock{key}")
        await asyncio.gather(*opening)
        assert len({store.id for store in stores}) == 1
        await asyncio.gather(*(store.close() for store in stores))

    async def test_first_start_beside_that_of_another_schema(self, postgres_url: str, url: str, name: str) -> None:
        """Who makes the tables waits for nobody who makes those of another schema."""
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}_other; SET search_path = {name}_other")
            connection.execute(f"SELECT pg_advisory_lock({schema._LOCK}, hashtext(current_schema()))")
            store = open_store(url)
            async with asyncio.timeout(PATIENCE):
                await store.open()
            assert store.id
            await store.close()
            connection.execute(f"DROP SCHEMA {name}_other")

    def test_tables_that_another_process_made_are_seen_in_a_transaction(self, url: str) -> None:
        """Who looked, began a transaction and waited for the lock sees what was made meanwhile."""
        engine = make_engine(parse(url))
        with engine.connect() as waiting, engine.connect() as other:
            with waiting.begin():
                assert schema._version(Tx(waiting, True, None)) is None
            with waiting.begin():
                waiting.execute(sa.text("SELECT 1"))
                with other.begin():
                    other.execute(sa.text("CREATE TABLE taskq_version AS SELECT '0001' AS version_num"))
                assert schema._version(Tx(waiting, True, None)) == "0001"

    async def test_lost_connections(self, proxied: tuple[Proxy, Store], caplog: pytest.LogCaptureFixture) -> None:
        """Connections that are cut are made anew, no verb fails for it, and no log speaks of it as an error."""
        proxy, store = proxied
        message = make()
        assert await settle(store, end(message)) is Settled.APPLIED
        for _ in range(3):
            proxy.cut()
            assert await settle(store, end(make())) is Settled.APPLIED
            assert set(await asyncio.gather(*(status(store, message) for _ in range(8)))) == {Status.SUCCEEDED}
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    async def test_server_away(self, proxied: tuple[Proxy, Store]) -> None:
        """While the server cannot be reached verbs say so at once; when it is back they go on."""
        proxy, store = proxied
        message = make()
        assert await settle(store, end(message)) is Settled.APPLIED
        await proxy.stop()
        with pytest.raises(StoreUnavailable):
            await status(store, message)
        async with proxy:
            assert await status(store, message) is Status.SUCCEEDED

    async def test_server_silent(self, proxied: tuple[Proxy, Store], monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that answers no more costs a verb its time, not for ever; and it is heard when it speaks again."""
        proxy, store = proxied
        monkeypatch.setattr(adapter, "ANSWER_SECONDS", 1.0)
        proxy.silence()
        with pytest.raises(StoreUnavailable, match="no answer within 1 s"):
            await store.get("x")
        monkeypatch.setattr(adapter, "ANSWER_SECONDS", PATIENCE)
        proxy.heal()
        assert await store.get("x") is None

    async def test_locked(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A row that another transaction holds is waited for in bounded time, and others are not held up."""
        monkeypatch.setattr(lines, "BUSY_SECONDS", 0.5)
        store = open_store(url)
        await store.open()
        message, other = make(hop=1), make(hop=1)
        await claim(store, message)
        with psycopg.connect(url) as connection:
            connection.execute("SELECT 1 FROM taskq_messages WHERE id = %s FOR UPDATE", (message.id,))
            claiming = asyncio.create_task(claim(store, message))
            assert (await claim(store, other)).epoch == 1
            with pytest.raises(StoreUnavailable, match="lock timeout"):
                await claiming
            connection.rollback()
        assert (await claim(store, message)).epoch == 2
        await store.close()

    async def test_a_transaction_that_stands_still(self, store: Store, url: str) -> None:
        """Its process was suspended, or its machine is gone: others wait seconds for its locks; it begins anew."""
        message = make()
        assert await settle(store, end(message)) is Settled.APPLIED
        place = parse(url)
        stood, go_on = threading.Event(), threading.Event()
        runs: list[str] = []

        def touch(tx: Tx, by: str) -> None:
            runs.append(by)
            tx.connection.execute(
                sa.text("UPDATE taskq_messages SET worker = :by WHERE id = :id"), {"by": by, "id": message.id}
            )
            if runs.count("suspended") == 1 and by == "suspended":
                stood.set()
                assert go_on.wait(30)
                tx.now()

        suspended, other = (Line(make_engine(place), place, None) for _ in range(2))
        late = asyncio.create_task(asyncio.to_thread(suspended.run, touch, "suspended"))
        try:
            assert await asyncio.to_thread(stood.wait, 10)
            await asyncio.to_thread(other.run, touch, "other")
        finally:
            go_on.set()
        await late
        record = await store.get(message.id)
        assert record is not None and record.worker == "suspended"
        assert runs == ["suspended", "other", "suspended"]
        suspended.close()
        other.close()

    async def test_wrong_password(self, postgres_url: str) -> None:
        """A user or a database that is not there is told without the password."""
        parts = sa.make_url(postgres_url)
        for changed in (parts.set(username="nobody-here"), parts.set(database="not-there")):
            url = changed.set(password="hunter2").render_as_string(hide_password=False)
            store = open_store(url)
            with pytest.raises(StoreUnavailable) as caught:
                await store.open()
            chain: BaseException | None = caught.value
            while chain is not None:
                assert "hunter2" not in f"{chain} {chain!r}"
                chain = chain.__cause__
            assert "hunter2" not in store.url + repr(store)
            await store.close()

    async def test_nobody_there(self) -> None:
        """A port at which nobody listens is told by its address."""
        store = open_store("postgresql://u:hunter2@127.0.0.1:9/db")
        with pytest.raises(StoreUnavailable, match="127.0.0.1") as caught:
            await store.open()
        assert "hunter2" not in str(caught.value)
        await store.close()

    async def test_transactions_after_single_statements(self, store: Store, url: str) -> None:
        """A verb that failed alone leaves the connection as one whose transactions hold together."""
        place = parse(url)
        line = Line(make_engine(place), place, None)

        def fail(tx: Tx) -> None:
            tx.connection.exec_driver_sql("SELECT 1")
            raise KeyError

        def half(tx: Tx) -> None:
            tx.connection.exec_driver_sql("DELETE FROM taskq_store")
            raise KeyError

        for run, verb in ((line.run_alone, fail), (line.run, half)):
            with pytest.raises(KeyError):
                run(verb)
        other = open_store(url)
        await other.open()
        assert other.id == store.id
        await other.close()
        line.close()
