"""Workers as processes of their own, and what their tasks saw themselves.

A `Station` is one test's room: a prefix on the broker, a store, an app to send with, workers that
it starts, stops and kills, and one event log. Every task of `harness_app` appends a line to that
log when it starts and when it ends, so that order and limits are measured by the tasks, not told by
the code under test. Instants are `time.time()` of one machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskq import Queue, TaskQ
from taskq.dispatch import control
from taskq.handle import Handle
from taskq.queue import QueueRecord
from taskq.store.base import Store
from tests.integration.harness_app import EVENTS_VARIABLE, make_app
from tests.servers import free_port
from tests.support import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
APP = "tests.integration.harness_app:app"


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log.

    kind     "start", "end" (it returned), "fail" (it raised) or "stop" (it was cancelled)
    at       float, time.time()
    pid      int, of the worker
    id       str, the message's
    number   int, given by the test: its place in the order of sending, usually
    key      str, "" without one
    """

    kind: str
    at: float
    pid: int
    id: str
    queue: str
    attempt: int
    number: int
    key: str


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt, from its start to its end; a kill of its worker ends it, too."""

    start: float
    end: float
    event: Event


class EventLog:
    """What the tasks of one test wrote; read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self._read = 0
        path.touch()

    def read(self) -> list[Event]:
        """All events so far."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        self.events += [Event(*json.loads(line)) for line in whole.splitlines()]
        return self.events

    def of(self, kind: str, **wanted: Any) -> list[Event]:
        """The events of a kind, in order of writing; further fields must be equal."""
        return [
            event
            for event in self.read()
            if event.kind == kind and all(getattr(event, name) == value for name, value in wanted.items())
        ]

    def done(self) -> set[str]:
        """Ids of the messages whose task has returned."""
        return {event.id for event in self.of("end")}

    async def until(self, check: Callable[[], Any], timeout: float = PATIENCE) -> Any:  # noqa: ASYNC109 - names the bound
        """Wait for a fact; the last events are shown if it does not come."""
        try:
            return await eventually(check, timeout)
        except AssertionError as error:
            tail = "\n".join(map(str, self.read()[-10:]))
            raise AssertionError(
                f"{error}\n{len(self.events)} events, {len(self.done())} done; the last:\n{tail}"
            ) from None


class WorkerProcess:
    """One `taskq worker`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.port = port
        self.output = output
        self.killed_at: float | None = None
        self.breaks_down = False  # the test means it to end with a critical error
        self.answered = ""

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.killed_at = time.time()
        self.process.wait(10)

    def terminate(self) -> None:
        """SIGTERM; returns at once."""
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, timeout: float = PATIENCE) -> int:  # noqa: ASYNC109 - names the bound
        """Its exit code, once it has ended."""
        await eventually(lambda: not self.running, timeout)
        return int(self.process.returncode)

    async def ready(self, timeout: float = PATIENCE) -> None:  # noqa: ASYNC109 - names the bound
        """Wait until /ready answers 200."""
        await eventually(self._is_ready, timeout)

    async def _is_ready(self) -> bool:
        assert self.running, f"the worker has ended with {self.process.returncode}:\n{self.said()[-3000:]}"
        return await self.health("/ready") == 200

    async def health(self, path: str = "/health") -> int:
        """The status that it answers with; 0 when it does not within 2 s. `answered` keeps the text."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                    answer = await reader.read()
                finally:
                    writer.close()
        except OSError:  # a timeout is one
            return 0
        self.answered = answer.rpartition(b"\r\n")[2].decode()
        return int(answer.split(b" ", 2)[1]) if answer else 0

    def said(self) -> str:
        """What it wrote to its outputs."""
        return self.output.read_text(errors="replace")


class Station:
    """See the module."""

    def __init__(self, *, broker: str, store: str, prefix: str, folder: Path, app: str = APP) -> None:
        self.folder = folder
        self.prefix = prefix
        self.log = EventLog(folder / "events.jsonl")
        self.workers: list[WorkerProcess] = []
        self.app: TaskQ = make_app(broker=broker, store=store, prefix=prefix)
        self.step = self.app.get_task("step")
        self._app_ref = app
        self._environment = {
            "TASKQ_BROKER": broker,
            "TASKQ_STORE": store,
            "TASKQ_PREFIX": prefix,
            EVENTS_VARIABLE: str(self.log.path),
            "PYTHONPATH": str(ROOT),
        }

    # -- workers ----------------------------------------------------------------------------

    def start(
        self, queues: Iterable[str], *, concurrency: int = 16, grace: float = 20, **settings: object
    ) -> WorkerProcess:
        """Start a worker and return at once; settings by their names, as variables."""
        port = free_port()
        variables = {f"TASKQ_{name.upper()}": str(value) for name, value in settings.items()}
        environment = os.environ | self._environment | variables | {"TASKQ_HEALTH": f"127.0.0.1:{port}"}
        command = [sys.executable, "-m", "taskq", "worker", self._app_ref, "-q", ",".join(queues)]
        command += ["-c", str(concurrency), "--grace", str(grace)]
        output = self.folder / f"worker-{len(self.workers)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        self.workers.append(WorkerProcess(process, port, output))
        return self.workers[-1]

    async def start_ready(self, count: int, queues: Iterable[str], **options: Any) -> list[WorkerProcess]:
        """Start so many, side by side, and return when all are ready."""
        workers = [self.start(list(queues), **options) for _ in range(count)]
        await asyncio.gather(*(worker.ready() for worker in workers))
        return workers

    def worker(self, pid: int) -> WorkerProcess:
        """The worker of an event."""
        return next(worker for worker in self.workers if worker.pid == pid)

    def deaths(self) -> dict[int, float]:
        """pid -> when it was killed."""
        return {worker.pid: worker.killed_at for worker in self.workers if worker.killed_at is not None}

    # -- messages ---------------------------------------------------------------------------

    async def ensure(self, *queues: Queue) -> None:
        """Make the queues as their code would: rows, and broker queues at the first use."""
        store = await self.store()
        for queue in queues:
            await store.ensure_queue(queue)

    async def send(self, queue: Queue, steps: Sequence[dict[str, Any]], **options: Any) -> list[Handle[Any]]:
        """Enqueue `step` with these arguments, in order; `key` is the message's key as well."""
        batch = []
        for arguments in steps:
            keyed = {"key": arguments["key"]} if queue.partitions is not None else {}
            task = self.step.options(queue=queue, **keyed, **options)
            batch.append(task.message(**arguments))
        return await self.app.enqueue_many_async(batch)

    async def store(self) -> Store:
        """The store, open."""
        return await self.app.client().store()

    async def limit(self, name: str, parallelism: int | None) -> QueueRecord:
        """Change a queue's parallelism as an operator does: the row, then a broadcast."""
        record = await (await self.store()).set_queue(name, parallelism=parallelism)
        assert record is not None
        (await self.app.client().broker()).broadcast(control({"changed": name}))
        return record

    async def pause(self, name: str, paused: bool) -> None:
        """Pause a queue, or end its pause, as an operator does; the word to all is lost while an alarm blocks it."""
        assert await (await self.store()).set_queue(name, paused=paused) is not None
        (await self.app.client().broker()).broadcast(control({"changed": name}))

    async def all_recorded(self, handles: Sequence[Handle[Any]], timeout: float = PATIENCE) -> Counter[str]:  # noqa: ASYNC109
        """Wait until every message has an outcome in the store; status -> messages."""
        store = await self.store()
        ids = [handle.id for handle in handles]

        async def check() -> Counter[str] | None:
            rows = await store.get_many(ids)
            final = [row for row in rows.values() if row.status.final]
            assert len(final) == len(ids), f"{len(final)} of {len(ids)} recorded"
            return Counter(str(row.status) for row in final)

        return await self.log.until(check, timeout)

    # -- what was seen ----------------------------------------------------------------------

    def spans(self, **wanted: Any) -> list[Span]:
        """Every attempt that began, by its start; one that still runs has no end (inf)."""
        starts = self.log.of("start", **wanted)  # read first: of each of them that has ended the end is there then
        ends: dict[tuple[int, str, int], list[float]] = {}
        for event in self.log.read():
            if event.kind != "start":
                ends.setdefault((event.pid, event.id, event.attempt), []).append(event.at)
        deaths = self.deaths()
        spans = []
        for event in starts:
            mine = ends.get((event.pid, event.id, event.attempt))
            end = mine.pop(0) if mine else deaths.get(event.pid, float("inf"))
            spans.append(Span(event.at, end, event))
        return sorted(spans, key=lambda span: span.start)

    async def close(self) -> None:
        """End everything; a worker that broke down is an error."""
        for worker in self.workers:
            if worker.running:
                worker.process.kill()
        for worker in self.workers:
            worker.process.wait(10)
        await self.app.close()
        for worker in (worker for worker in self.workers if not worker.breaks_down):
            said = worker.said()
            assert "Traceback" not in said and "CRITICAL" not in said, said[-5000:]


def most_at_once(spans: Iterable[Span]) -> int:
    """How many ran at once, at most."""
    return max((level for _, level in levels(spans)), default=0)


def levels(spans: Iterable[Span]) -> list[tuple[float, int]]:
    """(instant, how many run from then on); at one instant ends come before starts."""
    changes = []
    for span in spans:
        changes += [(span.start, 1), (span.end, -1)]
    level, steps = 0, []
    for at, change in sorted(changes):
        level += change
        steps.append((at, level))
    return steps


def utilisation(spans: Iterable[Span], since: float, until: float, limit: int) -> float:
    """The share of a limit that was used between two instants: 1 is in full."""
    used = sum(max(0.0, min(span.end, until) - max(span.start, since)) for span in spans)
    return used / (limit * (until - since))


def longest_gap(spans: Sequence[Span]) -> float:
    """Seconds, at most, in which nothing ran between the first start and the last."""
    gap, busy_until = 0.0, spans[0].end
    for span in spans[1:]:
        gap = max(gap, span.start - busy_until)
        busy_until = max(busy_until, span.end)
    return gap


def assert_in_order(spans: Sequence[Span]) -> None:
    """One at a time, each number again or the next: what a FIFO queue promises through crashes and retries."""
    for before, after in zip(spans, spans[1:], strict=False):
        assert after.start >= before.end, f"{after.event} began while {before.event} ran until {before.end}"
        step = after.event.number - before.event.number
        assert step in (0, 1), f"{after.event} came after {before.event}"
