"""The README's ways to send a message over HTTP work as they stand, with `taskq dev` in the place of API and worker."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.clients.test_npm_client import modules, program  # noqa: F401 - a fixture
from tests.endpoint import Endpoint
from tests.support import PATIENCE, eventually_now

README = (Path(__file__).parents[2] / "README.md").read_text()
ADDRESS, SITE, TOKEN = "http://127.0.0.1:8080", "https://shop.example", "secret"


def block_after(mark: str) -> str:
    """The code block of the README that follows a comment."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"README.md has no block marked {mark!r}"
    return found.group(1)


@dataclass(frozen=True, slots=True)
class Shop:
    """The README's app, served, and the destination that it names, which is on this machine here."""

    url: str
    endpoint: Endpoint
    folder: Path

    def run(self, mark: str, name: str, *command: str) -> None:
        """Run a block as a file of that name; its command must end well."""
        text = block_after(mark)
        assert SITE in text
        path = self.folder / name
        path.write_text(text.replace(SITE, self.endpoint.url("")).replace(ADDRESS, self.url))
        variables = os.environ | {"QSTASH_URL": self.url, "QSTASH_TOKEN": TOKEN}
        done = subprocess.run(
            [*command, name], cwd=self.folder, env=variables, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def get(self, path: str, **query: str) -> httpx.Response:
        """What the API tells."""
        answer = httpx.get(f"{self.url}{path}", params=query, headers={"Authorization": f"Bearer {TOKEN}"})
        answer.raise_for_status()
        return answer


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """`taskq dev shop:app`, with the app of the quickstart; it must end well."""
    (tmp_path / "shop.py").write_text(block_after("file: shop.py"))
    said = tmp_path / "dev.log"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")}
    with Endpoint() as endpoint, said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq", "dev", "shop:app", "--port", "0"],
            cwd=tmp_path, env=plain | {"TASKQ_API_TOKEN": TOKEN}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            found = eventually_now(lambda: re.search(r"^api +(\S+)$", said.read_text(), re.MULTILINE))
            yield Shop(found.group(1), endpoint, tmp_path)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE)
    assert code == 0, said.read_text()


def test_readme_with_curl(shop: Shop) -> None:
    """The message comes with its body, the callback tells of the answer, and the Python task has run."""
    if shutil.which("curl") is None:
        pytest.fail("the README's first example needs curl: apt-get install curl")
    shop.run("http: curl", "send.sh", "bash", "-e")
    [order] = shop.endpoint.wait("/orders")
    assert order.json() == {"order": 1}
    [told] = shop.endpoint.wait("/told")
    assert (told.json()["status"], told.json()["maxRetries"]) == (200, 5)

    def ran() -> bool:
        events = shop.get("/v2/events", url="task://shop.total").json()["events"]
        return [event["state"] for event in events][:1] == ["DELIVERED"]

    eventually_now(ran)


def test_readme_with_the_python_client(shop: Shop) -> None:
    """A delayed message and one of a FIFO queue come; the schedule is kept."""
    shop.run("http: python", "send.py", sys.executable)
    assert shop.endpoint.wait("/invoices")[0].json() == {"invoice": 2}
    assert shop.endpoint.wait("/orders")[0].json() == {"order": 2}
    assert shop.get("/v2/queues/invoices").json()["parallelism"] == 1
    [schedule] = shop.get("/v2/schedules").json()
    assert (schedule["cron"], schedule["destination"]) == (
        "CRON_TZ=Europe/Paris 0 6 * * 1",
        shop.endpoint.url("/report"),
    )


def test_readme_with_the_npm_client(shop: Shop, modules: Path) -> None:  # noqa: F811
    """A message within limits of its key and one of a FIFO queue come."""
    (shop.folder / "node_modules").symlink_to(modules)
    shop.run("http: npm", "send.mjs", program("node"))
    assert shop.endpoint.wait("/orders")[0].json() == {"order": 3}
    assert shop.endpoint.wait("/invoices")[0].json() == {"invoice": 3}
    key = shop.get("/v2/flowControl/acme").json()
    assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (5, 100, 60)
