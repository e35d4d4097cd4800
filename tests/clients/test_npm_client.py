"""The official npm client works unchanged: every call that it has, in Node's own tests, against running processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import platformdirs
import pytest

from tests.clients.server import Site
from tests.endpoint import Answer

HERE = Path(__file__).parent / "npm"
MANIFEST = ("package.json", "package-lock.json")
NEEDED = "the npm client's tests need Node.js 20 or later with npm: apt-get install nodejs npm"


def program(name: str) -> str:
    """The path of a program of Node's; the test fails without it."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(NEEDED)
    return found


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder with the client, as the lock file names it: installed once, beside the user's other caches."""
    mark = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in MANIFEST)).hexdigest()[:16]
    place = Path(platformdirs.user_cache_dir("taskq-tests")) / f"npm-{mark}"
    if not place.exists():
        made = place.with_name(f"{place.name}.{os.getpid()}")
        made.mkdir(parents=True)
        for name in MANIFEST:
            shutil.copy(HERE / name, made)
        command = [program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=100)
        if done.returncode == 0 and not place.exists():
            made.rename(place)
        shutil.rmtree(made, ignore_errors=True)
        assert done.returncode == 0, f"npm could not install the client:\n{done.stdout}\n{done.stderr}"
    return place / "node_modules"


def run(script: str, site: Site, modules: Path, folder: Path) -> None:
    """A file of tests, run by Node; its output is shown if one fails."""
    for path in HERE.glob("*.mjs"):
        shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(modules)
    variables = {"QSTASH_URL": site.url, "QSTASH_TOKEN": site.token, "MODEL_URL": site.model_url}
    done = subprocess.run(
        [program("node"), "--test", "--test-reporter=spec", script],
        cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "pass 0" not in done.stdout


def test_npm_client_sends_messages(running: Site, modules: Path, tmp_path: Path) -> None:
    """publish, publishJSON, queue().enqueue, batch; messages.get, cancel; Receiver.verify; errors."""
    run("messages.test.mjs", running, modules, tmp_path)


def test_npm_client_keeps_things(running: Site, modules: Path, tmp_path: Path) -> None:
    """queue(), urlGroups, schedules, flowControl."""
    run("keeping.test.mjs", running, modules, tmp_path)


def test_npm_client_reads_what_became_of_them(running: Site, modules: Path, tmp_path: Path) -> None:
    """dlq, logs and events; keys that rotate."""
    run("reading.test.mjs", running, modules, tmp_path)


def test_npm_client_reaches_providers(running: Site, modules: Path, tmp_path: Path) -> None:
    """LLMs and mail, which are destinations like others; and a chat, which the server's own model answers at once."""
    said = {"choices": [{"message": {"role": "assistant", "content": "hello"}}]}
    answer = Answer(200, {"Content-Type": "application/json"}, json.dumps(said).encode())
    running.endpoint.answer("/model/v1/chat/completions", answer)
    run("providers.test.mjs", running, modules, tmp_path)
