"""The broker, the result backend and the stores of a run: those that were named, else private ones started here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

from benchmarks.processes import Child
from benchmarks.wire import BareClient

BROKER_VARIABLE = "TASKQ_BENCH_BROKER"
STORE_VARIABLE = "TASKQ_BENCH_STORE"


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Services:
    """What contestants talk to; a context manager that ends what it started.

    broker      str, AMQP URL
    redis       str, URL of the peers' result backend, "" where no redis-server is installed
    postgres    str, URL
    """

    def __init__(self, folder: Path, broker: str | None, postgres: str | None) -> None:
        self._folder = folder
        self.broker = broker or os.environ.get(BROKER_VARIABLE, "")
        self.postgres = postgres or os.environ.get(STORE_VARIABLE, "")
        self.redis = ""
        self._stores = 0
        self._started = contextlib.ExitStack()

    def __enter__(self) -> Services:
        try:
            if not self.broker or not self.postgres:
                from tests.services import services

                broker, store = self._started.enter_context(services(durable=True))
                self.broker, self.postgres = self.broker or broker.url, self.postgres or store.url
            self._start_redis()
        except BaseException:
            self._started.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    @property
    def broker_port(self) -> int:
        return urlsplit(self.broker).port or 5672

    @property
    def store_port(self) -> int:
        return urlsplit(self.postgres).port or 5432

    def broker_version(self) -> str:
        """What the broker calls itself."""
        with BareClient(self.broker) as client:
            return client.server

    def new_store(self, kind: str) -> str:
        """The URL of an empty store: a new file for "sqlite", a new database for "postgres", "" for no store."""
        self._stores += 1
        if kind == "sqlite":
            return f"sqlite:///{self._folder / f'taskq-{self._stores}.db'}"
        if kind == "postgres":
            import psycopg

            name = f"taskq_bench_{os.getpid()}_{self._stores}"
            with psycopg.connect(self.postgres, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{name}"'.encode())
            return urlunsplit(urlsplit(self.postgres)._replace(path=f"/{name}"))
        return ""

    def new_prefix(self) -> str:
        """A prefix for taskq's names on the broker that no earlier store had, not even one whose end is under way."""
        return f"taskq-bench-{os.getpid()}-{self._stores}"

    def drop_store(self, url: str) -> None:
        """Delete what `new_store` made."""
        if url.startswith("sqlite"):
            for path in self._folder.glob(f"{Path(urlsplit(url).path).name}*"):
                path.unlink()
        elif url:
            import psycopg

            with psycopg.connect(self.postgres, autocommit=True) as connection:
                name = urlsplit(url).path[1:]
                connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def _start_redis(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            from tests.services import install

            if not install("redis-server"):
                return  # who needs it is reported as not measured
            binary = "redis-server"
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        child = Child([*command, "--dir", str(self._folder)], {}, self._folder / "redis.log")
        self._started.callback(child.stop)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.redis = f"redis://127.0.0.1:{port}/0"
