"""A memory-mapped file on which every worker process counts what it ran.

The runner reads the counts and instants from it, so that neither broker nor store is asked while a
measurement runs. Instants are `time.monotonic_ns()`, which all processes of a machine share.

Layout: one u64 (lines taken), then LINES lines of (count, first_ns, last_ns), then STAMPS instants,
one for each task number from 0.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

LINES = 256
STAMPS = 200_000
_LINE = struct.Struct("<QQQ")
_U64 = struct.Struct("<Q")
_FIRST_LINE = _U64.size
_FIRST_STAMP = _FIRST_LINE + LINES * _LINE.size
_SIZE = _FIRST_STAMP + STAMPS * _U64.size

ENVIRONMENT = "TASKQ_BENCH_BOARD"


@dataclass(frozen=True, slots=True)
class Line:
    """What one worker process ran: how many tasks, and the instants of its first and last (ns)."""

    count: int
    first_ns: int
    last_ns: int


class Marker:
    """A worker process's own pen: takes a line at its first mark, also after a fork."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._count = 0
        self._first = 0
        self._map: mmap.mmap | None = None
        self._offset = 0
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._map = None

    def _take_line(self) -> mmap.mmap:
        with open(self._path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            board = mmap.mmap(file.fileno(), _SIZE)
            taken = _U64.unpack_from(board, 0)[0]
            if taken >= LINES:
                raise RuntimeError(f"the board has {LINES} lines, all are taken")
            _U64.pack_into(board, 0, taken + 1)
            fcntl.flock(file, fcntl.LOCK_UN)  # closing would not: the map keeps a duplicate of the descriptor
        self._offset = _FIRST_LINE + taken * _LINE.size
        self._first = time.monotonic_ns()
        self._map = board
        return board

    def mark(self, number: int) -> None:
        """The first line of every task: counts it and, for a number from 0 on, stamps the instant."""
        now = time.monotonic_ns()
        with self._lock:
            board = self._map or self._take_line()
            self._count += 1
            _LINE.pack_into(board, self._offset, self._count, self._first, now)
            if 0 <= number < STAMPS:
                _U64.pack_into(board, _FIRST_STAMP + number * _U64.size, now)


class Board:
    """The reader's side: makes the file, reads counts and stamps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def clear(self) -> None:
        """Forget all counts and stamps; only while no worker runs, for workers keep their lines."""
        self._map[:] = bytes(_SIZE)

    def lines(self) -> list[Line]:
        taken = _U64.unpack_from(self._map, 0)[0]
        return [Line(*_LINE.unpack_from(self._map, _FIRST_LINE + i * _LINE.size)) for i in range(taken)]

    def count(self) -> int:
        """How many tasks began, over all processes."""
        return sum(line.count for line in self.lines())

    def stamp(self, number: int) -> int:
        """When the task of that number began (ns), 0 if it has not."""
        return int(_U64.unpack_from(self._map, _FIRST_STAMP + number * _U64.size)[0])

    def wait_stamp(self, number: int, timeout: float) -> int:
        """The instant at which the task of that number began (ns)."""
        deadline = time.monotonic() + timeout
        while not (stamp := self.stamp(number)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"task {number} did not begin within {timeout} s")
            time.sleep(0.0002)
        return stamp

    def close(self) -> None:
        self._map.close()


def from_environment() -> Marker:
    """The marker of the board that the runner named."""
    return Marker(os.environ[ENVIRONMENT])
