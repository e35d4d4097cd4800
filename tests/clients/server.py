"""The whole of taskq as its HTTP users meet it: `taskq api` and a worker with a beat, as processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.endpoint import Endpoint
from tests.servers import free_port
from tests.support import PATIENCE, eventually_now

ROOT = Path(__file__).parents[2]
APP = "tests.clients.sample_app:app"
TOKEN, READONLY_TOKEN = "secret-of-the-tests", "may-only-read"


@dataclass(frozen=True, slots=True)
class Site:
    """Where the API is, how to be let in, and a destination.

    url          without a slash at its end
    endpoint     a server on loopback, to which deliveries are allowed
    environment  of its processes
    folder       where they leave what they say
    """

    url: str
    token: str
    readonly_token: str
    endpoint: Endpoint
    environment: dict[str, str]
    folder: Path

    @property
    def model_url(self) -> str:
        """Where `api/llm` leads."""
        return self.environment["TASKQ_LLM_URL"]

    def taskq(self, *words: str) -> str:
        """What a command of an operator's prints; it must end well."""
        done = subprocess.run(
            [sys.executable, "-m", "taskq", *words],
            env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def another(self, **variables: str) -> Iterator[str]:
        """URL of a second `taskq api` of the same site, with other settings."""
        with _process("api", ["--port", "0"], self.environment | variables, self.folder / "another") as said:
            yield eventually_now(lambda: _address(said))


@contextmanager
def site(*, broker: str, store: str, prefix: str, folder: Path) -> Iterator[Site]:
    """Start all, and end all; every process must end well, and none may have said anything of an error of ours."""
    with Endpoint() as endpoint:
        environment = os.environ | {
            "TASKQ_BROKER": broker,
            "TASKQ_STORE": store,
            "TASKQ_PREFIX": prefix,
            "TASKQ_API_TOKEN": TOKEN,
            "TASKQ_API_READONLY_TOKEN": READONLY_TOKEN,
            "TASKQ_DELIVERY_ALLOW": "127.0.0.0/8,::1",
            "TASKQ_LLM_URL": endpoint.url("/model"),
        }
        with _process("api", ["--port", "0"], environment, folder) as said:
            url = eventually_now(lambda: _address(said))
            health = f"127.0.0.1:{free_port()}"
            with _process("worker", ["--beat", "--grace", "5", "--health", health], environment, folder):
                eventually_now(lambda: _is_ready(f"http://{health}"))
                yield Site(url, TOKEN, READONLY_TOKEN, endpoint, environment, folder)


def _address(said: Path) -> str | None:
    """The URL that the API says it listens on, once it answers there."""
    found = re.search(r"listening on (http://\S+)", said.read_text())
    if found is None:
        return None
    url = found.group(1).rstrip("/")
    return url if _is_ready(url) else None


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def _process(command: str, options: list[str], environment: dict[str, str], folder: Path) -> Iterator[Path]:
    """A `taskq COMMAND`; gives the file of what it says."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{command}.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", command, APP, *options],
            env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield path
        assert process.poll() is None, f"taskq {command} has ended:\n{path.read_text()[-5000:]}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(10)
    said = path.read_text()
    assert code == 0, f"taskq {command} ended with {code}:\n{said[-5000:]}"
    assert "Traceback" not in said and "CRITICAL" not in said, said[-5000:]
    assert TOKEN not in said and READONLY_TOKEN not in said
