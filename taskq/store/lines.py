"""A line to the database: one connection, its transactions, and the one door where foreign errors end.

Each thread of the store owns a line. A line connects when it is first needed, and again after the
connection broke.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from taskq.clock import Clock
from taskq.errors import InvalidMessage, StoreUnavailable
from taskq.store.rows import to_us
from taskq.store.url import StoreURL

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 5.0  # how long one transaction waits for another's lock
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 10.0
STILL_SECONDS = 3.0  # without a statement, and a transaction is over: a process that stands still holds nobody up
CONTENTIONS = 20

# PostgreSQL's errors after which the same transaction, begun anew, may well pass.
_PASSING = ("40001", "40P01", "08", "57P", "25P03")


class Contended(Exception):
    """Another transaction changed what this one had looked at: roll back and run the verb again."""


_SERVER_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction, as the verbs in `sql` see it."""

    connection: Connection
    postgres: bool
    clock: Clock | None

    def now(self) -> int:
        """The store's clock at this moment, in microseconds."""
        if self.clock is not None:
            return to_us(self.clock.now())
        return int(self.connection.exec_driver_sql(f"SELECT {_SERVER_NOW}").scalar_one())

    @property
    def now_sql(self) -> str:
        """The store's clock within a `text` statement, which takes `now_parameters` then."""
        return ":now" if self.clock is not None else _SERVER_NOW.replace(":", r"\:")

    def now_parameters(self) -> dict[str, int]:
        return {} if self.clock is None else {"now": to_us(self.clock.now())}

    @property
    def greatest(self) -> str:
        """The function that gives the largest of its arguments."""
        return "greatest" if self.postgres else "max"


@dataclass(frozen=True, slots=True)
class Plain:
    """A transaction in the driver's own words, for the most frequent verb: SQLAlchemy takes 30 to 60 µs for each
    statement, for its beginning and for its end."""

    driver: Any

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """The driver's cursor."""
        return self.driver.execute(statement, parameters)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> int:
        """How many rows SQLite has changed."""
        return int(self.driver.executemany(statement, rows).rowcount)


class Line:
    """One connection to the store's database, used by one thread.

    Args:
        begin: how SQLite's transactions begin: IMMEDIATE for writers, who then never find the
            database changed under them; DEFERRED for readers, whom no writer holds up.
    """

    def __init__(self, engine: Engine, place: StoreURL, clock: Clock | None, *, begin: str = "IMMEDIATE") -> None:
        self._engine = engine
        self._place = place
        self._clock = clock
        self._begin = begin
        self._connection: Connection | None = None

    def run(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the verb in a transaction of its own; once more on a new connection if this one was lost.

        Raises:
            StoreUnavailable: no connection, or it was lost, or a lock was held too long.
            InvalidMessage: the database cannot hold a value.
        """
        return self._run(lambda: self._transact(verb, *args, **kwargs))

    def run_alone(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a verb that makes one change by one statement, or reads.

        PostgreSQL then has one round trip a statement and none to begin and end a transaction.
        """
        return self._run(lambda: self._transact(verb, *args, **kwargs), alone=True)

    def run_plain(self, verb: Callable[Concatenate[Plain, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same by the driver alone; PostgreSQL's is one statement."""
        return self._run(lambda: self._go_plain(verb, *args, **kwargs), alone=True)

    @property
    def postgres(self) -> bool:
        return self._place.kind == "postgresql"

    def _run(self, attempt: Callable[[], T], *, alone: bool = False) -> T:
        again = self.postgres
        with translated(self._place):
            for contentions in range(CONTENTIONS):
                try:
                    self._drive(alone=alone)
                    return attempt()
                except Contended:
                    if contentions + 1 == CONTENTIONS:
                        raise
                except sa.exc.DBAPIError as error:
                    if not (again and _passes(error)):
                        raise
                    again = False
        raise AssertionError("unreachable")

    def connection(self) -> Connection:
        """The connection, made if there is none."""
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(taskq_begin=self._begin)
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with _forgiven():
                connection.close()

    def _transact(self, verb: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        connection = self.connection()
        try:
            with connection.begin():
                return verb(Tx(connection, self.postgres, self._clock), *args, **kwargs)
        except sa.exc.DBAPIError as error:
            # A connection that broke, or whose state is not known, is not used again.
            if error.connection_invalidated or connection.invalidated or self.postgres:
                self.close()
            raise

    def _go_plain(self, verb: Callable[Concatenate[Plain, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        driver, dialect = self._driver(), self._engine.dialect
        try:
            if self.postgres:
                return verb(Plain(driver), *args, **kwargs)
            with driver:
                driver.execute(f"BEGIN {self._begin}")
                return verb(Plain(driver), *args, **kwargs)
        except dialect.loaded_dbapi.Error as error:
            gone = dialect.is_disconnect(error, driver, None)
            if gone:
                self.connection().invalidate()  # else its closing begins with a rollback, which fails and is logged
            if gone or self.postgres:
                self.close()
            raise sa.exc.DBAPIError.instance(
                None, None, error, dialect.loaded_dbapi.Error, connection_invalidated=gone, dialect=dialect
            ) from error

    def _driver(self) -> Any:
        return self.connection().connection.driver_connection

    def _drive(self, *, alone: bool) -> None:
        """Have PostgreSQL take what comes as transactions, or each statement alone."""
        if self.postgres and (driver := self._driver()).autocommit is not alone:
            driver.autocommit = alone


@contextmanager
def _forgiven() -> Iterator[None]:
    """Closing a connection that is broken already may fail; nothing follows from it."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError, sqlite3.Error):
        return


@contextmanager
def translated(place: StoreURL) -> Iterator[None]:
    """The door: errors of SQLAlchemy and the drivers become taskq's, without password or parameters."""
    try:
        yield
    except Contended as error:
        raise StoreUnavailable(f"store {place.shown}: too many processes changed the same rows; try again") from error
    except (sa.exc.SQLAlchemyError, OverflowError, UnicodeError) as error:
        # `from None`: a driver's error carries the statement's parameters and the connection's settings.
        if is_data_error(error):
            raise InvalidMessage(f"store {place.shown} cannot hold a value: {_text(error, place)}") from None
        raise StoreUnavailable(f"store {place.shown}: {_text(error, place)}") from None


def _text(error: BaseException, place: StoreURL) -> str:
    original = getattr(error, "orig", None) or error
    text = " ".join(str(original).split())
    if "database is locked" in text:
        text = f"locked by another process for more than {BUSY_SECONDS:g} s"
    elif "unable to open database file" in text:
        text += ": check that the file and its folder may be written by this user, on a disk that is not read-only"
    return place.scrubbed(text)[:500] or type(original).__name__


def _passes(error: sa.exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlstate", None) or ""
    if not code:  # the driver itself lost the server
        return isinstance(error, sa.exc.OperationalError)
    return code.startswith(_PASSING)


def is_data_error(error: Exception) -> bool:
    """Whether the values of a statement are at fault, not the database."""
    if not isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.StatementError | OverflowError | UnicodeError)
    if error.connection_invalidated:
        return False
    code = getattr(error.orig, "sqlstate", None) or ""
    if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError):
        return True
    # The driver could not turn a value into a parameter; or (class 54) one of PostgreSQL's limits.
    return (isinstance(error, sa.exc.ProgrammingError) and not code) or code.startswith("54")


def make_folder(place: StoreURL) -> None:
    """Make the folder that a SQLite file lies in.

    Raises:
        StoreUnavailable: it cannot be made.
    """
    if place.path is None:
        return
    try:
        Path(place.path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"store {place.shown}: its folder cannot be made: {error}") from error


def make_engine(place: StoreURL) -> Engine:
    """The SQLAlchemy engine; connects nowhere yet."""
    return _postgres_engine(place) if place.kind == "postgresql" else _sqlite_engine(place)


# Every statement that is frequent has an index to go by, in a queue's tables that are empty now and hold a million rows
# in a minute. A plan is kept from when they were empty, and statistics are a minute old: neither may choose to read a
# whole table. (What has no other way still reads it; JIT would be tried for its price.)
_BY_INDEX = "; ".join(
    f"SET {name} = off"
    for name in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
)


def _postgres_engine(place: StoreURL) -> Engine:
    engine = sa.create_engine(
        place.sqlalchemy,
        hide_parameters=True,
        poolclass=NullPool,  # the lines are the pool
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": int(CONNECT_SECONDS),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "application_name": "taskq",
        },
    )

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.autocommit = True
        connection.execute(
            f"SET statement_timeout = {int(STATEMENT_SECONDS * 1000)}; SET lock_timeout = {int(BUSY_SECONDS * 1000)};"
            f"SET idle_in_transaction_session_timeout = {int(STILL_SECONDS * 1000)}; {_BY_INDEX}"
        )
        connection.autocommit = False

    return engine


def _sqlite_engine(place: StoreURL) -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            place.path or ":memory:",
            timeout=BUSY_SECONDS,
            isolation_level=None,  # transactions begin where SQLAlchemy says so, below
            check_same_thread=False,
            cached_statements=256,
        )

    engine = sa.create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        if place.path is not None:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        mode: Literal["IMMEDIATE", "DEFERRED"] = connection.get_execution_options().get("taskq_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
