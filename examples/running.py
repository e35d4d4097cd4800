"""What the examples share: an app that needs nothing, and workers to run it, here or as processes.

A program of your own says `app = TaskQ(broker="amqp://…", store="postgresql://…")` and is served by
`taskq worker module:app`. The examples run as they are, so they take `TASKQ_BROKER` and
`TASKQ_STORE` if these are set, else a broker inside the process and a temporary SQLite file.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taskq import TaskQ
from taskq.worker.worker import Worker

# Worker processes, and the children of `pool="process"`, import an example by its name.
HERE = str(Path(__file__).resolve().parent)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])


def an_app(**settings: Any) -> TaskQ:
    """An app on the broker and store of the environment, or on `memory://` and a file that is removed at the end."""
    os.environ.setdefault("TASKQ_BROKER", "memory://")
    if "TASKQ_STORE" not in os.environ:
        folder = tempfile.mkdtemp(prefix="taskq-example-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["TASKQ_STORE"] = f"sqlite:///{folder}/taskq.db"
    return TaskQ(**settings)


def command(*arguments: str) -> str:
    """What `taskq ARGUMENTS…` prints; an error if it fails."""
    done = subprocess.run([sys.executable, "-m", "taskq", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def needs_rabbitmq() -> None:
    """End here, saying what to do, unless TASKQ_BROKER names a broker that several processes can share."""
    if os.environ.get("TASKQ_BROKER", "memory://").startswith("memory:"):
        sys.exit("this example is about several processes: set TASKQ_BROKER to a RabbitMQ (`make up` starts one)")


@contextlib.asynccontextmanager
async def worker(app: TaskQ, **options: Any) -> AsyncIterator[Worker]:
    """A worker in the running event loop; at the end it finishes what it has, and the app is closed."""
    one = Worker(app, **options)
    serving = asyncio.create_task(one.run())
    started = asyncio.create_task(one.started.wait())
    try:
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield one
    finally:
        started.cancel()
        one.stop()
        await asyncio.gather(serving, return_exceptions=True)
        await app.close()


@contextlib.asynccontextmanager
async def api(app: TaskQ) -> AsyncIterator[str]:
    """The HTTP API in the running event loop, as `taskq api` serves it in a process; gives its URL."""
    from taskq.api.server import Guest, listen, url_of

    at_once = asyncio.Event()
    at_once.set()
    with listen(app, "127.0.0.1", 0) as listener:
        async with Guest(app).serving(listener, once=at_once):
            yield url_of(listener)


class Arrival(NamedTuple):
    """A request that came; `headers` may be asked for in any case."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Destination:
    """A web server on a thread, to which messages go: keeps what it is sent, and answers 200 or as `answers` says.

    arrivals  the requests, in the order in which they came
    answers   path -> statuses, each given once; then 200 again
    """

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.answers: dict[str, list[int]] = {}
        arrivals, answers = self.arrivals, self.answers

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                arrivals.append(Arrival(self.path, self.headers, body))
                told = answers.get(self.path)
                self.send_response(told.pop(0) if told else 200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"seen")

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Destination:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        """Where it takes requests for a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    async def at(self, path: str, count: int = 1, within: float = 20) -> list[Arrival]:
        """The requests to a path, once there are so many."""
        deadline = time.monotonic() + within
        while len(found := [one for one in list(self.arrivals) if one.path == path]) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{count} requests to {path} were expected, {len(found)} came")
            await asyncio.sleep(0.02)
        return found


@contextlib.contextmanager
def worker_thread(app: TaskQ, **options: Any) -> Iterator[None]:
    """The same on a thread of its own, beside sync code."""
    ready, leave = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with worker(app, **options):
            ready.set()
            await asyncio.to_thread(leave.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # raised again by whoever waits for this thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    try:
        ready.wait()
        if not failures:
            yield
    finally:
        leave.set()
        thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def worker_processes(app_ref: str, count: int, *options: str, log: Path | None = None) -> Iterator[list[int]]:
    """So many `taskq worker` processes; gives their ids. SIGTERM ends them, and they must exit with 0."""
    line = [sys.executable, "-m", "taskq", "worker", app_ref, *options]
    with contextlib.ExitStack() as files:
        output = files.enter_context(log.open("ab")) if log is not None else None
        processes = [subprocess.Popen(line, stdout=output, stderr=output) for _ in range(count)]
        try:
            yield [process.pid for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            codes = [process.wait(timeout=60) for process in processes]
    if any(codes):
        raise RuntimeError(f"workers ended with {codes}, not 0")
