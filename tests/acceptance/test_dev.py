"""`taskq dev` serves the HTTP API beside the worker: where it is, who is let in, and how it ends."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.acceptance.command_line import APP, ROOT, CommandLine
from tests.endpoint import Endpoint
from tests.support import PATIENCE, eventually_now


@pytest.fixture
def alone(tmp_path: Path) -> CommandLine:
    """A command line without any server."""
    return CommandLine(broker="amqp://127.0.0.1:1/", store="sqlite:////proc/none", prefix="alone", folder=tmp_path)


@dataclass(frozen=True, slots=True)
class Dev:
    """A `taskq dev` that runs: its process, and the file of what it says on standard error."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def said(self) -> str:
        return self.path.read_text()

    def line(self, name: str) -> str:
        """What stands behind a name in its introduction, once it is there."""

        def look() -> str | None:
            assert self.process.poll() is None, self.said
            found = re.search(rf"^{name} +(.+)$", self.said, re.MULTILINE)
            return found and found.group(1)

        return eventually_now(look)

    def client(self, token: str | None = None) -> httpx.Client:
        """For its API; with the token that it says, unless another is given."""
        headers = {"Authorization": f"Bearer {token or self.line('token')}"}
        return httpx.Client(base_url=self.line("api"), headers=headers, timeout=30)


@contextmanager
def dev(room: CommandLine, *options: str, **variables: str) -> Iterator[Dev]:
    """It must end well on Ctrl-C, also with connections that clients keep open."""
    path = room.folder / f"dev-{len(list(room.folder.iterdir()))}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "dev", APP, *options],
            env=room.environment | variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    running = Dev(process, path)
    try:
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE)
    assert code == 0, running.said
    assert "Traceback" not in running.said and "ERROR" not in running.said, running.said


def test_dev_delivers_to_this_machine(alone: CommandLine) -> None:
    """It says URL and token of its API; a message published there comes to a URL on loopback; others are refused."""
    with Endpoint() as endpoint, dev(alone, "--port", "0") as running, running.client() as client:
        assert client.post(f"/v2/publish/{endpoint.url('/hook')}", content=b"hello").status_code == 200
        [seen] = endpoint.wait("/hook")
        assert seen.body == b"hello" and seen.header("upstash-signature")
        assert httpx.get(f"{running.line('api')}/v2/queues").status_code == 401
        assert running.line("token") not in running.said.partition("token")[2].partition("\n")[2]
        url = running.line("api")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_dev_is_what_clients_in_its_script_find(alone: CommandLine) -> None:
    """A script beside it calls a Python task through the API, by the variables that QStash's clients read."""
    script = alone.folder / "script.py"
    script.write_text(
        "import os, sys\n"
        "from qstash import QStash\n"
        "from tests.acceptance.sample_app import app\n"
        "client = QStash(os.environ['QSTASH_TOKEN'], base_url=os.environ['QSTASH_URL'])\n"
        "sent = client.message.publish_json(url='task://add', body={'a': 40, 'b': 2})\n"
        "print(app.handle(sent.message_id).get_result(60))\n"
        "sys.exit(4)\n"
    )
    said = alone.run("dev", APP, "--run", str(script), code=4, QSTASH_URL="https://elsewhere.example")
    assert said.out.splitlines() == ["42"]


def test_dev_keeps_the_token_that_is_set(alone: CommandLine) -> None:
    """A token of the settings is the API's, and is not shown; delivery_allow of the settings stands, too."""
    variables = {"TASKQ_API_TOKEN": "set-by-somebody", "TASKQ_DELIVERY_ALLOW": "10.0.0.0/8"}
    with Endpoint() as endpoint, dev(alone, "--port", "0", **variables) as running:
        assert running.line("token") == "that of the settings"
        with running.client("set-by-somebody") as client:
            sent = client.post(f"/v2/publish/{endpoint.url('/hook')}", headers={"Upstash-Retries": "0"}).json()

            def failed() -> bool:
                letters = client.get("/v2/dlq", params={"messageId": sent["messageId"]}).json()["messages"]
                return len(letters) == 1

            eventually_now(failed)
        assert endpoint.requests() == []
        assert "set-by-somebody" not in running.said


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def usual_port_is_taken() -> Iterator[None]:
    """By this test, or by another program."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        yield


def test_dev_takes_another_port_than_a_taken_one(alone: CommandLine, usual_port_is_taken: None) -> None:
    """Without --port it takes one that is free; one that was asked for is had, or it is said that it cannot be."""
    with dev(alone) as running, running.client() as client:
        port = running.line("api").rpartition(":")[2]
        assert port != "8080" and client.get("/ready").status_code == 200
        said = alone.run("dev", APP, "--port", port, code=1)
        assert f"--port {port}" in said.err and "choose another" in said.err


CODE = """
from taskq import TaskQ

app = TaskQ()

@app.task(name="version")
async def version() -> int:
    return 1
"""


def test_dev_reloads_with_its_api(alone: CommandLine, unused_port: int) -> None:
    """After a change of the code the API is at its place again with the same token, and knows the new tasks."""
    code = alone.folder / "reloaded_dev.py"
    code.write_text(CODE)
    path = alone.folder / "dev.log"
    line = ["dev", "reloaded_dev:app", "--reload", "--port", str(unused_port)]
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", *line], env=alone.environment | {"PYTHONPATH": str(ROOT)},
            cwd=alone.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    running = Dev(process, path)
    try:
        token = running.line("token").split(",")[0]
        with httpx.Client(
            base_url=f"http://127.0.0.1:{unused_port}", headers={"Authorization": f"Bearer {token}"}
        ) as client:

            def tasks() -> list[str]:
                try:
                    return [task["name"] for task in client.get("/admin/tasks").json()]
                except httpx.TransportError:
                    return []

            eventually_now(lambda: tasks() == ["version"])
            code.write_text(CODE.replace('name="version"', 'name="second"'))
            eventually_now(lambda: tasks() == ["second"])
    finally:
        process.send_signal(signal.SIGTERM)
        code_of_end = process.wait(PATIENCE)
    assert code_of_end == 0, running.said


def test_dev_without_the_libraries_of_the_api(alone: CommandLine) -> None:
    """Where the extra is not installed it says what to install, and runs tasks all the same; so does --no-api."""
    folder = alone.folder / "missing"
    folder.mkdir()
    (folder / "fastapi.py").write_text("raise ModuleNotFoundError('no module named fastapi', name='fastapi')\n")
    script = alone.folder / "script.py"
    script.write_text(
        "import os\n"
        "from tests.acceptance.sample_app import app\n"
        "print(app.get_task('add').enqueue(1, 2).get_result(60), os.environ['QSTASH_URL'])\n"
    )
    said = alone.run("dev", APP, "--run", str(script), PYTHONPATH=str(folder), QSTASH_URL="none")
    assert said.out.split() == ["3", "none"]
    assert "api     not served, for it needs fastapi: pip install 'taskq[api]'" in said.err
    said = alone.run("dev", APP, "--no-api", "--run", str(script), QSTASH_URL="none")
    assert said.out.split() == ["3", "none"] and "\napi " not in said.err and "token" not in said.err
