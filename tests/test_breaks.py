"""The patches of `make breaks` are fit for it, and it tells tests that notice from tests that do not, or that break."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import breaks
from tests.breaks import ROOT, Break, Seen, judge

ALL = breaks.read_all()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
FILE, TEST = "taskq/duration.py", "tests/unit/test_duration.py::test_parse"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree."""
    tree = tmp_path_factory.mktemp("copy") / "tree"
    tree.mkdir()
    breaks.copy_tree(tree)
    return tree


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_patch_applies(one: Break, tree: Path) -> None:
    """It fits the code as it is, changes nothing but the product, and leaves no name undefined."""
    files = re.findall(r"^\+\+\+ b/(\S+)", one.path.read_text(), re.MULTILINE)
    assert files and all(name.startswith("taskq/") for name in files)
    before = {name: (tree / name).read_bytes() for name in files}
    try:
        breaks.apply(one.path, tree)
        assert all((tree / name).read_bytes() != text for name, text in before.items())
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E9,F821,F823"]
        done = subprocess.run([*ruff, *files], cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    finally:
        for name, text in before.items():
            (tree / name).write_bytes(text)


def test_the_tests_exist() -> None:
    """pytest finds every test that a patch names."""
    names = sorted({test for one in ALL for test in one.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_the_document_lists_each() -> None:
    """docs/guarantees.md has a row for each break, with the tests that catch it."""
    section = GUARANTEES.partition("## Breaking it on purpose")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", section, re.MULTILINE))
    assert set(rows) == {one.name for one in ALL}
    for one in ALL:
        for test in one.tests:
            assert f"`{test.rpartition('::')[2]}`" in rows[one.name], one.name


def test_judging() -> None:
    """A test's own judgement catches; what breaks before, after, or beside it does not, nor does silence."""
    passed, failed = Seen("t", "call", True), Seen("t", "call", False, fair=True, text="AssertionError")
    broken = Seen("t", "call", False, text="NameError: x")
    fixture = Seen("t", "setup", False, text="OSError")
    assert judge([fixture, failed]) == (True, "t")
    for seen in (
        [],
        [passed],
        [broken],
        [fixture],
        [Seen("t", "collect", False)],
        [passed, Seen("t", "teardown", False)],
    ):
        assert judge(seen)[0] is False
    assert breaks.is_judgement(ExceptionGroup("both", [AssertionError(), TimeoutError()]))
    assert not breaks.is_judgement(ExceptionGroup("both", [AssertionError(), NameError()]))


def write_patch(folder: Path, name: str, old: str, new: str) -> None:
    """A patch of FILE that TEST is to catch."""
    text = (ROOT / FILE).read_text()
    assert old in text
    lines = text.splitlines(True), text.replace(old, new).splitlines(True)
    head = f"Breaks: durations\nHow: {name}\nCaught by: {TEST}\n\n"
    (folder / f"{name}.patch").write_text(head + "".join(difflib.unified_diff(*lines, f"a/{FILE}", f"b/{FILE}")))


@pytest.mark.timeout(300)
def test_what_each_kind_of_patch_comes_to(rabbitmq_url: str, postgres_url: str, tmp_path: Path) -> None:
    """One that the test notices, one that it does not, one that breaks the test, and one that has rotted."""
    write_patch(tmp_path, "noticed", '"m": 60', '"m": 61')
    write_patch(tmp_path, "harmless", "LONGEST_SECONDS = 366", "LONGEST_SECONDS = 365")
    write_patch(tmp_path, "crashing", "float(sum(", "float(summ(")
    write_patch(tmp_path, "rotten", '"m": 60', '"m": 61')
    rotten = (tmp_path / "rotten.patch").read_text()
    (tmp_path / "rotten.patch").write_text(rotten.replace('"m": 60', '"m": 59'))
    urls = {"TASKQ_TEST_BROKER": rabbitmq_url, "TASKQ_TEST_STORE": postgres_url}
    command = [sys.executable, "-m", "tests.breaks", "--patches", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | urls, capture_output=True, text=True)
    rows = dict(re.findall(r"^(?:caught|MISSED)  (\w+) +[\d.]+ s  (.*)$", done.stdout, re.MULTILINE))
    assert done.returncode == 1, done.stderr
    assert rows.keys() == {"noticed", "harmless", "crashing", "rotten"}, done.stdout
    assert rows["noticed"].startswith(TEST) and "caught  noticed" in done.stdout
    assert rows["harmless"] == "no test noticed"
    assert "NameError" in rows["crashing"]
    assert rows["rotten"].startswith("does not apply")
    assert "1 of 4 breaks caught" in done.stdout


def test_a_test_that_does_not_run_catches_nothing() -> None:
    """A name that pytest does not know is told of before anything is broken."""
    lost = Break("lost", ROOT, "", "", ("tests/unit/test_duration.py::test_of_no_such_name",))
    assert "test_of_no_such_name: did not run" in breaks.run_unbroken([lost])
