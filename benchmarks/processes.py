"""Child processes and what Linux tells about them: CPU seconds and memory of whole trees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Unsupported

_TICKS = os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).resolve().parent.parent


class ContestantFailed(Exception):
    """A contestant's process ended or answered with an error; the text says what it printed."""


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo.extend(children.get(found[-1], ()))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, with that of its children that ended."""
    total = 0
    for member in tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def memory_mb(pid: int) -> dict[str, float]:
    """`rss` and `pss` of the tree in MB (1e6 bytes); pages shared by its members count once in pss."""
    totals = {"rss": 0.0, "pss": 0.0}
    for member in tree(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            name, _, rest = line.partition(":")
            if name.lower() in totals:
                totals[name.lower()] += int(rest.split()[0]) * 1024 / 1e6
    return totals


def listener(port: int) -> int | None:
    """The process that listens on that local TCP port, if we may see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if any(os.readlink(link) in inodes for link in entry.joinpath("fd").iterdir()):
                    return int(entry.name)
            except OSError:
                continue  # ended meanwhile, or not ours to see
    return None


def busy_cores(seconds: float = 0.5) -> float:
    """How many of the machine's cores are at work now, whoever uses them."""

    def ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all; idle and waiting for the disk

    total, idle = ticks()
    time.sleep(seconds)
    total_later, idle_later = ticks()
    share = 1 - (idle_later - idle) / max(total_later - total, 1)
    return share * (os.cpu_count() or 1)


class Child:
    """A process group of our own, logging to a file; ended by its group's id."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path, **pipes: Any) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=os.environ | environment,
                cwd=_ROOT,
                stderr=output,
                start_new_session=True,
                **({"stdout": output, "stdin": subprocess.DEVNULL} | pipes),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise if it has ended."""
        if self.process.poll() is not None:
            raise ContestantFailed(f"{self.process.args} ended with {self.process.returncode}: {self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self, grace: float = 8.0) -> None:
        """SIGTERM to the first process, then SIGKILL to what is left of the group after `grace` seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                pass  # killed below
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it has ended
        self.process.wait()


class DriverProcess(Child):
    """The sending process of a contestant (`benchmarks.driver`)."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.driver", module]
        super().__init__(command, environment, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, verb: str, **arguments: Any) -> Any:
        """One command, its answer."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait(5)
            self.check()
        answer = json.loads(line)
        if "unsupported" in answer:
            raise Unsupported(verb)
        if "error" in answer:
            raise ContestantFailed(answer["error"])
        return answer["ok"]

    def stop(self, grace: float = 8.0) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            pass  # terminated, then killed, by the general way
        super().stop(grace)
        assert self.process.stdout
        self.process.stdout.close()


def wait_until(fact: Any, timeout: float, what: str, children: Sequence[Child] = ()) -> None:
    """Look every 5 ms until `fact()` is true."""
    deadline = time.monotonic() + timeout
    while not fact():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            raise ContestantFailed(f"{what} did not happen in {timeout} s; " + " ".join(c.tail() for c in children))
        time.sleep(0.005)
