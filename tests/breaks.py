"""Breaks the code on purpose, once for each patch of tests/chaos/breaks, and demands that the tests notice.

    python -m tests.breaks [NAME…] [--patches FOLDER]

A patch is a unified diff of taskq/ that breaks one promise, as a plausible mistake would. Above the diff it says
so: `Breaks:` the promise, `How:` the mistake, and `Caught by:` a test's node id, as often as there are tests.
Each patch is applied to a copy of the working tree, and its tests run there; one of them must fail by its own
judgement: a failed assertion, an error of taskq's that is no bug of ours, a time limit. An import error, a fixture
that breaks, or a test that is red without the patch catches nothing. Exits 1 if a patch goes unnoticed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.services import BROKER_VARIABLE, STORE_VARIABLE, services

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "tests" / "chaos" / "breaks"
AT_ONCE = 2  # runs side by side
FEW = 8  # tests, so many of which are run sooner by one process than by several
TEST_SECONDS = 60  # of one test; one that hangs has noticed
RUN_SECONDS = 180  # of all tests of one patch: beyond that pytest itself hangs


# -- patches -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Break:
    """One patch.

    name      str, of its file
    promise   str: what it breaks
    mistake   str: how
    tests     node ids, as pytest takes them
    """

    name: str
    path: Path
    promise: str
    mistake: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Break:
        """Raises ValueError for a file that does not say what it breaks, or by what it is caught."""
        said: dict[str, list[str]] = {"Breaks": [], "How": [], "Caught by": []}
        for line in path.read_text().splitlines():
            if line.startswith(("diff --git", "--- ")):
                break
            what, colon, text = line.partition(": ")
            if colon and what in said:
                said[what].append(text.strip())
        promise, mistake, tests = said.values()
        if len(promise) != 1 or len(mistake) != 1 or not tests:
            raise ValueError(f"{path}: says not once what it `Breaks:` and `How:`, or not what it is `Caught by:`")
        return cls(path.stem, path, promise[0], mistake[0], tuple(tests))


def read_all(folder: Path = PATCHES) -> list[Break]:
    """Every patch of a folder, by name."""
    return [Break.read(path) for path in sorted(folder.glob("*.patch"))]


class DoesNotApply(Exception):
    """The patch does not fit the code any more."""


def apply(patch: Path, tree: Path) -> None:
    """Apply a patch to a copy of the tree.

    Raises:
        DoesNotApply: with git's own words.
    """
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}  # no repository around it counts
    command = ["git", "apply", str(patch.resolve())]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DoesNotApply(done.stderr.strip())


def copy_tree(to: Path) -> None:
    """Copy the working tree as it is: every file that git knows or would take in."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        with contextlib.suppress(FileNotFoundError):  # deleted, and git has not been told yet
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


@contextlib.contextmanager
def copied(patch: Path | None) -> Iterator[Path]:
    """A folder with a copy of the tree, patched, for as long as the block runs.

    Raises:
        DoesNotApply: the patch does not.
    """
    with tempfile.TemporaryDirectory(prefix="taskq-breaks-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        copy_tree(tree)
        if patch is not None:
            apply(patch, tree)
        yield tree


# -- inside a copy: pytest, and what it saw -------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One report of pytest's.

    when     "collect", "setup", "call" or "teardown"
    fair     bool: it failed by the test's own judgement
    text     the first line of the error, "" without one
    """

    test: str
    when: str
    passed: bool
    fair: bool = False
    text: str = ""


class Witness:
    """A plugin of pytest's that writes what it sees, a line each."""

    def __init__(self, to: Path) -> None:
        self._to = to

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if report.failed and call.excinfo is not None:
            error = call.excinfo.value
            fair = report.when == "call" and is_judgement(error)
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            report.user_properties.append(("seen", {"fair": fair, "text": text[:200]}))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seen: Any = dict(report.user_properties).get("seen", {})
        self._write(Seen(report.nodeid, report.when or "", not report.failed, **seen))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(Seen(report.nodeid, "collect", False, text=str(report.longrepr).strip().splitlines()[-1]))

    def _write(self, seen: Seen) -> None:
        with self._to.open("a") as file:
            file.write(json.dumps(vars(seen)) + "\n")


def is_judgement(error: BaseException) -> bool:
    """Whether a test that ends so says that a promise is broken: not that names or imports are missing."""
    from taskq import TaskqError

    if isinstance(error, BaseExceptionGroup):
        return all(map(is_judgement, error.exceptions))
    return isinstance(error, AssertionError | TimeoutError | TaskqError | pytest.fail.Exception)


def testify(to: Path, arguments: list[str]) -> int:
    """Run pytest on the code around this file."""
    import taskq

    if ROOT not in Path(taskq.__file__).resolve().parents:
        sys.exit(f"the tests of {ROOT} would run the code of {taskq.__file__}")
    return pytest.main([*arguments, "-p", "no:cacheprovider"], plugins=[Witness(to)])


# -- outside: one run for each patch ----------------------------------------------------------------------


class Hung(Exception):
    """pytest did not end."""


def run_tests(tree: Path, tests: Sequence[str], *options: str, within: float) -> list[Seen]:
    """Run tests in a copy of the tree; what was seen. Their output is in the file `output` beside the copy.

    Raises:
        Hung: they did not end within that many seconds.
    """
    seen, output = tree.parent / "seen", tree.parent / "output"
    # Processes that the tests start import the copy, too, wherever they start.
    # Most breaks are seen by waiting in vain, which need not be for long.
    environment = os.environ | {"PYTHONPATH": str(tree), "TASKQ_TEST_PATIENCE": "10"}
    where = subprocess.run(
        [sys.executable, "-c", "import taskq; print(taskq.__file__)"],
        cwd=tree.parent, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert tree in Path(where.stdout.strip()).parents, f"processes run the code of {where.stdout}"
    command = [sys.executable, "-m", "tests.breaks", "--inside", str(seen), *tests, *options]
    command += ["--timeout", str(TEST_SECONDS), "--basetemp", str(tree.parent / "temp"), "-p", "no:randomly"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            raise Hung(f"the tests did not end within {within:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return [Seen(**json.loads(line)) for line in seen.read_text().splitlines()] if seen.exists() else []


@dataclass(frozen=True)
class Row:
    """What became of one patch."""

    name: str
    caught: bool
    by: str
    seconds: float

    def __str__(self) -> str:
        return f"{'caught' if self.caught else 'MISSED'}  {self.name:38}  {self.seconds:5.1f} s  {self.by}"


def judge(seen: Sequence[Seen]) -> tuple[bool, str]:
    """Whether the tests of a patch have noticed, and which of them, or why not."""
    for one in seen:
        if one.fair:
            return True, one.test
    wrong = [one for one in seen if not one.passed]
    if wrong:
        return False, f"no test failed as it should: {wrong[0].test} broke in its {wrong[0].when}: {wrong[0].text}"
    if not any(one.when == "call" for one in seen):
        return False, "no test ran"
    return False, "no test noticed"


def run_break(one: Break) -> Row:
    """Apply a patch to a copy, and run its tests there."""
    began = time.monotonic()
    try:
        with copied(one.path) as tree:
            caught, by = judge(run_tests(tree, one.tests, "-x", "-q", within=RUN_SECONDS))
            if not caught:
                by += "\n" + (tree.parent / "output").read_text(errors="replace")[-3000:]
    except DoesNotApply as error:
        caught, by = False, f"does not apply: {error}"
    except Hung as error:
        caught, by = False, str(error)
    return Row(one.name, caught, by, time.monotonic() - began)


def run_unbroken(breaks: Sequence[Break]) -> str:
    """Run all the tests that are named on the code as it is; "" if all pass, else what is wrong."""
    tests = sorted({test for one in breaks for test in one.tests})
    with copied(None) as tree:
        try:
            side_by_side = ["-n", str(AT_ONCE)] if len(tests) > FEW else []
            seen = run_tests(tree, tests, "-q", *side_by_side, within=RUN_SECONDS + 10 * len(tests))
        except Hung as error:
            return str(error)
        red = sorted({f"{one.test}: {one.text or one.when}" for one in seen if not one.passed})
        ran = {one.test for one in seen if one.when == "call"}
        ran |= {test.partition("[")[0] for test in ran}
        red += [f"{test}: did not run; is there such a test?" for test in tests if test not in ran]
        if red:
            return "\n".join([*red, (tree.parent / "output").read_text(errors="replace")[-3000:]])
    return ""


def run_all(breaks: Sequence[Break]) -> bool:
    """Break the code in each way, and print a row for each; whether all was noticed."""
    with services() as (broker, store):
        os.environ.update({BROKER_VARIABLE: broker.url, STORE_VARIABLE: store.url})
        began = time.monotonic()
        wrong = run_unbroken(breaks)
        if wrong:
            print(f"the tests fail without any break, and can catch none:\n{wrong}")
            return False
        print(f"unbroken, all of their tests pass ({time.monotonic() - began:.0f} s)", flush=True)
        rows = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for row in pool.map(run_break, breaks):
                print(row, flush=True)
                rows.append(row)
    caught = sum(row.caught for row in rows)
    print(f"{caught} of {len(rows)} breaks caught, in {time.monotonic() - began:.0f} s")
    return caught == len(rows)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--inside"]:
        return testify(Path(arguments[1]), arguments[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.breaks", description="Breaks the code on purpose.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a patch, without its ending; all if none is given")
    parser.add_argument("--patches", type=Path, default=PATCHES, metavar="FOLDER", help="where the patches are")
    given = parser.parse_args(arguments)
    breaks = read_all(given.patches)
    unknown = set(given.names) - {one.name for one in breaks}
    if unknown:
        parser.error(f"no such patch: {', '.join(sorted(unknown))}")
    chosen = [one for one in breaks if not given.names or one.name in given.names]
    if not chosen:
        parser.error(f"no patches in {given.patches}")
    return 0 if run_all(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
