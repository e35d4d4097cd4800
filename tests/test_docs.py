"""The documents are true where a program can tell: code runs, links lead somewhere, tests named exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from taskq.timetable import Cron
from tests.support import pulse
from tests.test_layers import GROUND, MAY_IMPORT, OURS, PORTS, room_of, within

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SCHEDULES = (ROOT / "docs" / "schedules.md").read_text()


def block_after(mark: str) -> str:
    """The code block of the README that follows a comment."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"README.md has no block marked {mark!r}"
    return found.group(1)


def environment(**settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")} | settings


def test_quickstart(rabbitmq_url: str, prefix: str, sqlite_store_url: str, tmp_path: Path) -> None:
    """The README's quickstart, with a worker process on RabbitMQ, prints what the README says."""
    (tmp_path / "shop.py").write_text(block_after("file: shop.py"))
    variables = environment(TASKQ_BROKER=rabbitmq_url, TASKQ_STORE=sqlite_store_url, TASKQ_PREFIX=prefix)
    worker = subprocess.Popen(
        [sys.executable, "-m", "taskq", "worker", "shop:app"], cwd=tmp_path, env=variables, stderr=subprocess.DEVNULL
    )
    try:
        done = subprocess.run(
            [sys.executable, "shop.py"], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
        )
    finally:
        worker.terminate()
        code = worker.wait(60)
    assert done.stdout == block_after("output"), done.stderr
    assert code == 0


def test_quickstart_without_rabbitmq(tmp_path: Path) -> None:
    """`taskq dev shop:app --run shop.py` prints the same with no server, and ends with the script."""
    (tmp_path / "shop.py").write_text(block_after("file: shop.py"))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "taskq", "dev", "shop:app", "--run", "shop.py"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in block_after("output").splitlines():
        assert line in done.stdout
    assert time.monotonic() - began < 30 + pulse.lost()


def test_quickstart_is_short() -> None:
    """It can be read at a glance."""
    code = [line for line in block_after("file: shop.py").splitlines() if line.strip()]
    assert len(code) <= 20


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link of a document names a file that is there."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert missing == []


def test_every_example_is_in_the_readme() -> None:
    """The README's table leads to each example."""
    named = set(re.findall(r"\]\(examples/(\w+)\.py\)", README))
    assert named == {path.stem for path in (ROOT / "examples").glob("*.py")} - {"running", "demo"}


@pytest.mark.parametrize("page", ["guarantees.md", "qstash.md"])
def test_pages_name_tests_that_exist(page: str) -> None:
    """Promises, and what is said of the protocol, are shown by tests that can be run."""
    named = set(re.findall(r"`(test_\w+)(?:\[\w+\])?`", (ROOT / "docs" / page).read_text()))
    defined: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        defined |= set(re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    assert named - defined == set()
    assert len(named) >= 25


def test_map_of_imports_is_true() -> None:
    """docs/architecture.md allows every import that there is, and none that the walls do not."""
    table = re.search(r"## Who imports whom.*?```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert table is not None
    named: dict[str, set[str]] = {}
    for names, allowed in re.findall(r"((?:[\w/*]+, )*[\w/*]+) +-> (.+?)(?=  |$)", table[1], re.MULTILINE):
        for name in names.split(", "):
            named[name.removesuffix("/*")] = {
                one.removeprefix("open_").removesuffix("()") for one in allowed.split(", ")
            }
    assert len(named) >= 18
    for room, allowed in named.items():
        rooms = set().union(*({"ports": PORTS, "ground": GROUND}.get(one, {one}) for one in allowed))
        assert rooms - {room} <= {*MAY_IMPORT[room], f"{room}.base"}, room
        for module, imported in OURS.items():
            if room_of(module) == room:
                strays = {one for one in imported if not within(one, rooms | {room}) and one != ""}
                assert strays == set(), module


def test_settings_that_are_named_exist() -> None:
    """Documents name no setting that there is not."""
    from taskq.settings import Settings

    text = "".join(path.read_text() for path in [*DOCUMENTS, ROOT / "deploy" / "README.md"])
    variables = {name.lower() for name in re.findall(r"TASKQ_([A-Z_]+[A-Z])", text)}
    variables = {name for name in variables if not name.startswith(("test_", "bench_"))} - {"config"}
    assert variables <= Settings.model_fields.keys()
    plain = set(re.findall(r"`(?!test_)(\w+_(?:retention|after|after_\w+|timeout|limit|crashes|bytes))`", text))
    assert plain - Settings.model_fields.keys() <= {
        "soft_timeout",  # a task's
        "consumer_timeout",  # RabbitMQ's
        "catch_up_limit",  # a schedule's
    }


def test_guide_to_schedules_runs(tmp_path: Path) -> None:
    """The code of docs/schedules.md runs as it stands, block after block."""
    blocks = re.findall(r"```python\n(.*?)```", SCHEDULES, re.DOTALL)
    assert len(blocks) >= 2
    (tmp_path / "shop.py").write_text("".join(blocks))
    variables = environment(TASKQ_BROKER="memory://", TASKQ_STORE=f"sqlite:///{tmp_path}/taskq.db")
    line = [sys.executable, "-c", "import shop; print(sorted(shop.app.scheduled))"]
    done = subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['bill-ada', 'look', 'ping', 'shop.open_shop']"


def test_guide_to_schedules_tells_the_times_when_clocks_change() -> None:
    """Each row of the table of 29 March and 25 October is what a schedule does on those days in Berlin."""
    berlin = ZoneInfo("Europe/Berlin")
    days = datetime(2026, 3, 29, tzinfo=berlin), datetime(2026, 10, 25, tzinfo=berlin)
    times = r"((?: \d\d:\d\d\+\d\d:\d\d)*)"
    rows = re.findall(rf"^\| `([^`]+)` \|{times} \|{times} \|$", SCHEDULES, re.MULTILINE)
    assert len(rows) >= 5
    for text, *told in rows:
        for day, expected in zip(days, told, strict=True):
            end = day.replace(hour=4, minute=59)
            ticks = Cron(text, "Europe/Berlin").between(day - timedelta(seconds=1), end, 100)
            seen = [tick.astimezone(berlin).isoformat() for tick in ticks]
            assert [f"{one[11:16]}{one[19:]}" for one in seen] == expected.split(), text
