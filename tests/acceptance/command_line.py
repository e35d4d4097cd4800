"""`python -m taskq …` as its users call it: a subprocess in a room of its own, and what it printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskq import TaskQ
from taskq.client import Client
from tests.acceptance.sample_app import FOLDER, make_app
from tests.support import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
APP = "tests.acceptance.sample_app:app"


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, read as the JSON that it must be."""
        return json.loads(self.out)


class CommandLine:
    """One test's room: broker, store, prefix, and a folder in which tasks leave what they did."""

    def __init__(self, *, broker: str, store: str, prefix: str, folder: Path) -> None:
        self.broker, self.store, self.prefix, self.folder = broker, store, prefix, folder

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the subprocesses."""
        own = {"TASKQ_BROKER": self.broker, "TASKQ_STORE": self.store, "TASKQ_PREFIX": self.prefix}
        return {**os.environ, **own, FOLDER: str(self.folder), "COLUMNS": "100"}

    def run(self, *words: str, code: int = 0, stdin: str = "", **variables: str) -> Said:
        """Run a command to its end; it must end with `code`, and never in a traceback of ours."""
        done = subprocess.run(
            [sys.executable, "-m", "taskq", *words],
            env=self.environment | variables,
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = Said(done.returncode, done.stdout, done.stderr)
        assert said.code == code, f"taskq {' '.join(words)} ended with {said.code}:\n{said.out}\n{said.err}"
        assert "Traceback" not in said.err, said.err
        return said

    def json(self, *words: str) -> Any:
        """What a command prints for programs."""
        return self.run(*words, "--json").json

    def queue(self, name: str) -> dict[str, Any]:
        """A queue as `queues list` shows it."""
        return next(one for one in self.json("queues", "list") if one["name"] == name)

    def dead(self, *filters: str) -> list[dict[str, Any]]:
        """Dead letters as `dlq list` shows them."""
        items: list[dict[str, Any]] = self.json("dlq", "list", *filters)["items"]
        return items

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[TaskQ]:
        """The app in this process, to send many at once."""
        async with make_app(broker=self.broker, store=self.store, prefix=self.prefix) as app:
            yield app

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Broker and store in this process, to put things there and to look."""
        app = make_app(broker=self.broker, store=self.store, prefix=self.prefix)
        try:
            yield app.client()
        finally:
            await app.close()

    @contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A `taskq worker`; it must end well on SIGTERM."""
        with self._serving("worker", "--grace", "2", *options) as process:
            yield process

    @contextmanager
    def beat(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A `taskq beat`; it must end well on SIGTERM."""
        with self._serving("beat", *options) as process:
            yield process

    @contextmanager
    def _serving(self, command: str, *options: str) -> Iterator[subprocess.Popen[str]]:
        path = self.folder / f"{command}.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "taskq", command, APP, *options],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        try:
            yield process
            assert process.poll() is None, path.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
        assert code == 0, path.read_text()

    # -- what tasks did -----------------------------------------------------------------------

    def notes(self) -> list[str]:
        """The words that `note` wrote, in order."""
        path = self.folder / "notes"
        return path.read_text().split() if path.exists() else []

    async def noted(self, *words: str) -> None:
        """Wait until exactly these words are written."""

        def check() -> bool:
            assert self.notes() == list(words)
            return True

        await eventually(check)
