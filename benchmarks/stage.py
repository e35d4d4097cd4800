"""Where a measurement runs: starts driver and workers of one contestant, and sweeps up behind them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.board import ENVIRONMENT, Board
from benchmarks.contestants import Contestant
from benchmarks.processes import Child, DriverProcess, cpu_seconds, listener, wait_until
from benchmarks.services import Services, free_port
from benchmarks.settings import Settings
from benchmarks.wire import BareClient


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done.

    seconds   float, what one timed stretch aims at
    samples   int, of a latency
    backlog   int, messages queued beside the worker whose memory is measured; a tenth of it is delayed
    """

    seconds: float = 1.0
    samples: int = 200
    backlog: int = 1_000_000


class Stage:
    """One contestant's processes, from start to sweep; a context manager."""

    def __init__(self, contestant: Contestant, services: Services, folder: Path, scale: Scale) -> None:
        self.contestant = contestant
        self.scale = scale
        self.board = Board(folder / "board")
        self.board.clear()
        self._folder = folder
        self._services = services
        self._store = services.new_store(contestant.store)
        defaults = Settings(
            broker=services.broker,
            redis=services.redis,
            store=self._store,
            prefix=services.new_prefix(),
            api=f"http://127.0.0.1:{free_port()}",
            endpoint=f"http://127.0.0.1:{free_port()}",
        )
        self.settings = dataclasses.replace(defaults, **contestant.settings)
        self._environment = self.settings.environment() | {ENVIRONMENT: str(self.board.path), "PYTHONHASHSEED": "0"}
        self.broker_pid = listener(services.broker_port)
        self.store_pid = listener(services.store_port) if contestant.store == "postgres" else None
        self.workers: list[Child] = []
        self.description: dict[str, Any] = {}

    def __enter__(self) -> Stage:
        log = self._folder / f"{self.contestant.module}.log"
        log.unlink(missing_ok=True)  # so that trouble is told in the words of this run
        self.driver = DriverProcess(self.contestant.module, self._environment, log)
        try:
            self.description = self.driver.ask("describe", processes=1)
            self.empty()
        except BaseException:
            self.driver.stop()
            self._services.drop_store(self._store)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_workers()
        self.driver.stop()
        self.sweep()
        self._services.drop_store(self._store)
        self.board.close()

    # -- the contestant -----------------------------------------------------------------------

    @property
    def queue(self) -> str:
        return str(self.description["queue"])

    def produce(self, measure: str, **arguments: Any) -> dict[str, Any]:
        """Run that measure's `produce` in the driver; the CPU that others took is added to what it returns."""
        before = self._costs()
        answer: dict[str, Any] = self.driver.ask("produce", measure=measure, **arguments)
        return answer | {name: cost - before[name] for name, cost in self._costs().items()}

    def _costs(self) -> dict[str, float]:
        return {"broker_cpu": self.broker_cpu(), "worker_cpu": self.worker_cpu(), "store_cpu": self.store_cpu()}

    def fill(self, count: int) -> None:
        """Lay so many tasks on the queue; the sender leaves, and the broker gets time to finish with them."""
        self.driver.ask("fill", count=count)
        self.driver.ask("leave")
        time.sleep(0.3)

    def start_workers(self, processes: int) -> None:
        """Start them without waiting for anything."""
        log = self._folder / f"{self.contestant.module}-worker.log"
        commands = self.driver.ask("describe", processes=processes)["commands"]
        self.workers = [Child(command, self._environment, log) for command in commands]

    def start_another(self, command: list[str]) -> Child:
        """One more worker, ended with the others."""
        worker = Child(command, self._environment, self._folder / f"{self.contestant.module}-worker.log")
        self.workers.append(worker)
        return worker

    @contextlib.contextmanager
    def endpoint(self) -> Iterator[None]:
        """A destination for deliveries, which marks the board. It is no worker: its CPU is not counted."""
        command = [sys.executable, "-m", "benchmarks.endpoint"]
        child = Child(command, self._environment, self._folder / "endpoint.log")
        port = urlsplit(self.settings.endpoint).port or 0
        try:
            wait_until(lambda: listener(port) is not None, 20, "the endpoint's start", [child])
            yield
        finally:
            child.stop()

    def start_ready_workers(self, processes: int) -> None:
        """Start them, and return when tasks have run and none is left."""
        self.start_workers(processes)
        before = self.board.count()
        self.driver.ask("produce", measure="warm", count=20)
        self.wait_count(before + 20, timeout=40)
        time.sleep(0.3)

    def wait_count(self, count: int, timeout: float = 120) -> None:
        wait_until(
            lambda: self.board.count() >= count, timeout, f"task {count} of {self.contestant.name}", self.workers
        )

    def stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.workers = []

    # -- the broker -----------------------------------------------------------------------------

    def depth(self) -> int:
        """Messages ready on the contestant's queue."""
        with BareClient(self._services.broker) as client:
            return client.depth(self.queue) or 0

    def empty(self) -> None:
        """Purge what an earlier run left."""
        with BareClient(self._services.broker) as client:
            client.purge(self.queue)

    def sweep(self) -> None:
        """Delete what the contestant leaves on the broker."""
        if not self.description:
            return
        with BareClient(self._services.broker) as client:
            for queue in self.description["queues"]:
                client.delete_queue(queue)
            for exchange in self.description["exchanges"]:
                client.delete_exchange(exchange)

    # -- what it costs ----------------------------------------------------------------------------

    def broker_cpu(self) -> float:
        """CPU seconds of the broker so far; 0 where it is not ours to see."""
        return cpu_seconds(self.broker_pid) if self.broker_pid else 0.0

    def store_cpu(self) -> float:
        """CPU seconds of PostgreSQL so far; 0 where it is not used, or not ours to see."""
        return cpu_seconds(self.store_pid) if self.store_pid else 0.0

    def worker_cpu(self) -> float:
        """CPU seconds of the workers so far."""
        return sum(cpu_seconds(worker.pid) for worker in self.workers)
