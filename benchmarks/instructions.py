"""Instructions per message, counted by valgrind: a figure that a busy machine does not move."""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.counted import WORKS

_MESSAGES = 500
_TIMEOUT = 300
_ALLOCATORS = {"PyObject_Malloc", "PyObject_Calloc", "PyMem_Malloc", "PyMem_Calloc"}
_ROOT = Path(__file__).resolve().parent.parent


class NoValgrind(Exception):
    """valgrind is not here; the text says how to get it."""


def built_for() -> str:
    """What a count depends on besides our code."""
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"


def need_valgrind() -> None:
    """Install it where we may.

    Raises:
        NoValgrind: it is not installed, nor may be.
    """
    if shutil.which("valgrind") and shutil.which("callgrind_control"):
        return
    from tests.services import install

    if not install("valgrind"):
        raise NoValgrind("instructions are counted by valgrind, which is not installed: apt-get install valgrind")


def count(what: str, messages: int) -> int:
    """Instructions of that work with so many messages."""
    found = re.search(r"Collected : (\d+)", _callgrind(what, messages, Path(os.devnull)))
    if found is None:
        raise RuntimeError(f"counting {what} failed: valgrind told no count")
    return int(found[1])


def allocations(what: str, messages: int = _MESSAGES) -> float:
    """Blocks that Python's allocators gave out for each message; what the same work costs without any is taken off."""
    return (_blocks(what, messages) - _blocks(what, 0)) / messages


def _blocks(what: str, messages: int) -> int:
    with tempfile.TemporaryDirectory(prefix="taskq-counted-") as folder:
        profile = Path(folder) / "callgrind"
        _callgrind(what, messages, profile, "--compress-strings=no", "--compress-pos=no")
        lines = [line for line in profile.read_text().splitlines() if not line.startswith(("cfi=", "cfl=", "cob="))]
    blocks = 0
    for callee, calls in itertools.pairwise(lines):  # "cfn=NAME", then "calls=COUNT ..."
        if callee.startswith("cfn=") and callee[4:].partition("'")[0] in _ALLOCATORS:
            blocks += int(calls.removeprefix("calls=").split()[0])
    return blocks


def _callgrind(what: str, messages: int, profile: Path, *options: str) -> str:
    """Do that work under valgrind; what it says of it."""
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={profile}", *options]
    done = subprocess.run(
        [*command, sys.executable, "-m", "benchmarks.counted", what, str(messages), "--callgrind"],
        cwd=_ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"counting {what} failed: {done.stderr[-2000:]}")
    return done.stderr


def per_message(what: str, messages: int = _MESSAGES) -> float:
    """Instructions for each message, the smaller of two counts; what the same work costs without any is taken off."""
    return (min(count(what, messages) for _ in range(2)) - count(what, 0)) / messages


def all_counts() -> dict[str, float]:
    """Of every work, two at a time."""
    need_valgrind()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(WORKS, pool.map(per_message, WORKS), strict=True))


if __name__ == "__main__":
    for name, value in all_counts().items():
        print(f"{WORKS[name]:32} {value:12,.0f}")
