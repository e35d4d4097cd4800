"""What mypy and pyright say of programs that use taskq: right calls pass, wrong ones are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "typing"
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-incremental"],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
}
# What each says of the line `add.enqueue(1, "2")`, once nothing hides it.
COMPLAINTS = {"mypy": "arg-type", "pyright": "reportArgumentType"}


def check(checker: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHECKERS[checker], str(path)], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.parametrize("checker", CHECKERS)
def test_right_calls_pass(checker: str) -> None:
    """The type checker accepts every way of declaring, sending and waiting that the documentation shows."""
    done = check(checker, FOLDER / "accepted.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("checker", CHECKERS)
def test_wrong_calls_are_refused(checker: str, tmp_path: Path) -> None:
    """Each line that is marked as wrong is an error for the type checker once its mark is taken off."""
    source = (FOLDER / "refused.py").read_text()
    marked = {number for number, line in enumerate(source.splitlines(), 1) if "# type: ignore" in line}
    bare = tmp_path / "refused_bare.py"
    bare.write_text(re.sub(r"  # type: ignore.*", "", source))
    done = check(checker, bare)
    assert done.returncode == 1, done.stdout + done.stderr
    assert COMPLAINTS[checker] in done.stdout
    named = {int(number) for number in re.findall(r"refused_bare\.py:(\d+)", done.stdout)}
    assert named == marked and len(marked) >= 10
