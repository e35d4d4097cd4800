"""Every example runs, as a program of its own, and says what it should; the demo notices what does not hold."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rooms import sweep
from tests.support import pulse

FOLDER = Path(__file__).resolve().parent.parent / "examples"

# What each prints at least: its asserts have held by then.
EMBEDDED = {
    "hello": "hello world?",
    "fifo": "booked in order: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14",
    "lanes": "each of 4 customers in order",
    "parallelism": "40 pages, at most 10 at once",
    "rate_limit": "12 calls; start[i+5] - start[i] was at least 1 s",
    "flow_control": "40 messages of acme, two at a time",
    "priorities": "answered: outage, question, second question, newsletter, survey",
    "retries": "'flaky': 4, 'polite': 2, 'unready': 3, 'broken': 3, 'refused': 1",
    "delays": "due after 0.6 s",
    "expiry": "heard: a long speech, good night",
    "deduplication": "the first one was replaced",
    "cancel": "first began; first was cancelled; the thread stopped",
    "progress": "progress was seen on the way",
    "time_limits": "soft limit: the best so far",
    "process_pool": "process_pool.crash: taskq.worker.pools.ChildDied: the task's process was killed by SIGSEGV",
    "headers": "'trace': '4711'",
    "enqueue_many": "500 results, in order; the last is 249001",
    "typed_arguments": "order=7",
    "default_app": "two tasks on the default app: 42 and 42.0",
    "fan_out": "45 words, counted by 15 tasks inside one, in a worker with one place",
    "web_orders": "20 events applied in order, the balance is 1048555",
    "schedules": "of 3 ticks that were slept through, sent: skip 0, last 1, all 3",
    "http_messages": "in order, retries included: 0 0 0 1 2 3 4",
}
WITH_RABBITMQ = {
    "results_elsewhere": (["results_elsewhere.py"], "failed ZeroDivisionError in divide"),
    "dead_letters": (["dead_letters.py"], "too heavy"),
    "pause_resume": (["pause_resume.py"], "nothing starts; 12 messages are kept"),
    "rate_over_processes": (
        ["rate_over_processes.py", "--limit", "10", "--per", "2", "--starts", "35"],
        "35 starts over 3 workers",
    ),
    "fifo": (["fifo.py"], EMBEDDED["fifo"]),
    "fan_out": (["fan_out.py"], EMBEDDED["fan_out"]),
    "parallelism": (["parallelism.py"], EMBEDDED["parallelism"]),
    "web_orders": (["web_orders.py"], EMBEDDED["web_orders"]),
    "http_messages": (["http_messages.py"], EMBEDDED["http_messages"]),
}
HELPERS = {"running", "demo"}
HALT = 0.2  # seconds lost, after which a program's own bounds on time say nothing


def run(arguments: list[str], *, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the examples from an empty folder, and return it with its output."""
    line = [sys.executable, str(FOLDER / arguments[0]), *arguments[1:]]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")}
    return subprocess.run(
        line, env=plain | environment, cwd=folder, capture_output=True, text=True, timeout=110, check=False
    )


def judged(once: Callable[[], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """How it ended; of a run that failed while the machine stood still how the next one did, four times at most."""
    for _ in range(4):
        before = pulse.noted()
        done = once()
        if done.returncode == 0 or pulse.lost() - before < HALT:
            return done
    return once()


def test_every_example_is_run() -> None:
    """There is no file in examples/ that these tests leave out."""
    assert {path.stem for path in FOLDER.glob("*.py")} == EMBEDDED.keys() | WITH_RABBITMQ.keys() | HELPERS


@pytest.mark.parametrize("name", EMBEDDED)
def test_example(name: str, tmp_path: Path) -> None:
    """The example ends well with no broker and no settings, and leaves nothing in its folder."""
    done = judged(lambda: run([f"{name}.py"], folder=tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert EMBEDDED[name] in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WITH_RABBITMQ)
def test_example_on_rabbitmq(name: str, rabbitmq_url: str, prefix: str, stores: list[str], tmp_path: Path) -> None:
    """The example ends well on RabbitMQ, those about several processes with processes of their own."""
    arguments, expected = WITH_RABBITMQ[name]

    def once() -> subprocess.CompletedProcess[str]:
        if stores:
            sweep(rabbitmq_url, prefix, stores)
        stores.append(f"sqlite:///{tmp_path / f'{len(stores)}.db'}")
        settings = {"TASKQ_BROKER": rabbitmq_url, "TASKQ_STORE": stores[-1], "TASKQ_PREFIX": prefix}
        return run(arguments, folder=tmp_path, **settings)

    done = judged(once)
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize("name", ["dead_letters", "pause_resume", "rate_over_processes"])
def test_example_that_needs_rabbitmq_says_so(name: str, tmp_path: Path) -> None:
    """An example about several processes ends at once with what to do, rather than wait for workers in vain."""
    done = run([f"{name}.py"], folder=tmp_path)
    assert done.returncode == 1
    assert "set TASKQ_BROKER to a RabbitMQ" in done.stderr


def test_demo_embedded(tmp_path: Path) -> None:
    """The demo sees all that it promises without any server, and exits with 0."""
    done = judged(lambda: run(["demo.py"], folder=tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 29 checks held" in done.stdout
    assert "FAIL" not in done.stdout


def test_demo_on_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    """The demo sees the same on RabbitMQ with two worker processes."""
    done = judged(lambda: run(["demo.py", "--broker", rabbitmq_url], folder=tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "two worker processes" in done.stdout
    assert "All 29 checks held" in done.stdout


def test_demo_without_broker(unused_port: int, tmp_path: Path) -> None:
    """A broker that does not answer ends the demo within its 5 seconds, with what to do."""
    done = run(["demo.py", "--broker", f"amqp://guest:guest@127.0.0.1:{unused_port}/"], folder=tmp_path)
    assert done.returncode == 2
    assert f"no RabbitMQ answers at 127.0.0.1:{unused_port}" in done.stderr
    assert "`make up` starts one" in done.stderr


def test_demo_notices_what_does_not_hold(tmp_path: Path) -> None:
    """A check that fails, or a scene that ends in an error, is named and makes the exit code 1."""
    script = (
        "import sys, asyncio; import demo; from taskq import ResultTimeout\n"
        "async def wrong(check, folder): check('two and two is five', 2 + 2 == 5)\n"
        "async def stuck(check, folder): raise ResultTimeout('nothing came')\n"
        "demo.SCENES = (wrong, demo.first_tasks, stuck)\n"
        "sys.exit(asyncio.run(demo.main()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(FOLDER)},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "2 of 5 checks FAILED" in done.stdout
    assert " - two and two is five\n - stuck came to its end\n" in done.stdout


def test_most_at_once_counts_overlaps() -> None:
    """The demo's measure of parallelism sees five spans at once as five, and touching ones as one."""
    demo = _load("demo")
    spans = [demo.Span(0.1 * i, 1.0, 1, 1) for i in range(5)]
    assert demo.most_at_once(spans) == 5
    assert demo.most_at_once([demo.Span(i, i + 1.0, 1, 1) for i in range(5)]) == 1


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _load(name: str):  # noqa: ANN202 - a module
    sys.path.insert(0, str(FOLDER))
    kept = dict(os.environ)
    try:
        spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        os.environ.clear()
        os.environ.update(kept)
        sys.path.remove(str(FOLDER))
