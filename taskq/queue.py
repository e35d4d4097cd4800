"""What a logical queue promises: its order and its limits, over all processes.

Values only. How a queue is laid out on a broker is `broker.topology`'s matter; the row that
holds a queue's present limits is the store's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from taskq.errors import InvalidQueue

if TYPE_CHECKING:
    from taskq.handle import Handle
    from taskq.task import Task

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUEUE = "default"
MAX_NAME_CHARS = 200
MAX_PARALLELISM = 1024
MAX_PARTITIONS = 1024
MAX_PRIORITY = 31
MAX_RATE = 1_000_000_000  # starts in one window
RATE_SLACK = 0.02
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def check_queue_name(name: object) -> str:
    """The name, if it can be one: 1 to 200 of letters, digits, `.`, `-`, `_`.

    Raises:
        InvalidQueue: it cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        raise InvalidQueue(
            f"queue name {shown} is not allowed: use 1 to {MAX_NAME_CHARS} letters, digits, '.', '-' or '_'"
        )
    return name


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` starts in any `per` seconds, over all processes: a rolling window.

    Args:
        limit: starts, 1 to 1,000,000,000.
        per: seconds, more than 0, at most seven days.
    """

    limit: int
    per: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or not 1 <= self.limit <= MAX_RATE:
            raise InvalidQueue(f"RateLimit.limit must be a whole number from 1 to {MAX_RATE}, got {self.limit!r:.80}")
        if not isinstance(self.per, int | float) or not 0 < self.per <= 7 * 86400:
            raise InvalidQueue(f"RateLimit.per must be seconds above 0 and at most 604800, got {self.per!r}")

    @property
    def slack(self) -> float:
        """Seconds by which a start may follow its stamp, which windows allow for; a later one is stamped again."""
        return min(RATE_SLACK, self.per * 0.02)


@dataclass(frozen=True, slots=True)
class Queue:
    """A logical queue and its limits, which hold over all processes.

    Args:
        name: 1 to 200 letters, digits, `.`, `-`, `_`.
        parallelism: None: open, as many at once as the workers' own `-c` allow. 1: FIFO, strictly
            one at a time in order of arrival, a retry included. N: at most N at once.
        rate_limit: at most so many starts in any period.
        worker_parallelism: at most so many at once in one process; at most `parallelism`.
        priorities: obey `options(priority=…)`, larger first; refused on FIFO queues.
        partitions: FIFO lanes by key (`options(key=…)`); needs parallelism=1. Order holds within
            a key, and lanes run side by side.
        retry_in_place: a message that waits for its retry keeps its slot. FIFO queues always do.
    """

    name: str
    parallelism: int | None = None
    rate_limit: RateLimit | None = None
    worker_parallelism: int | None = None
    priorities: bool = False
    partitions: int | None = None
    retry_in_place: bool = False

    def __post_init__(self) -> None:
        check_queue_name(self.name)
        check_count("parallelism", self.parallelism, MAX_PARALLELISM)
        check_count("worker_parallelism", self.worker_parallelism, MAX_PARALLELISM)
        check_count("partitions", self.partitions, MAX_PARTITIONS)
        if self.rate_limit is not None and not isinstance(self.rate_limit, RateLimit):
            raise InvalidQueue(f"rate_limit takes a RateLimit(limit, per=seconds), got {self.rate_limit!r}")
        if self.worker_parallelism and self.parallelism and self.worker_parallelism > self.parallelism:
            raise InvalidQueue(
                f"queue {self.name!r}: worker_parallelism {self.worker_parallelism} exceeds "
                f"parallelism {self.parallelism}, which bounds all processes together"
            )
        if self.fifo and self.priorities:
            raise InvalidQueue(f"queue {self.name!r} is FIFO (parallelism=1): priorities would break its order")
        if self.partitions is not None and not self.fifo:
            raise InvalidQueue(f"queue {self.name!r}: partitions are FIFO lanes and need parallelism=1")

    @property
    def fifo(self) -> bool:
        """Strictly one at a time, in order (per lane, when partitioned)."""
        return self.parallelism == 1

    def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue any task on this queue; see `Task.enqueue`."""
        return task.options(queue=self).enqueue(*args, **kwargs)

    async def enqueue_async(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue any task on this queue; see `Task.enqueue_async`."""
        return await task.options(queue=self).enqueue_async(*args, **kwargs)


def check_count(name: str, value: object, most: int) -> None:
    """Raise InvalidQueue unless the value is None or a whole number from 1 to `most`."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidQueue(f"{name} must be a whole number from 1 to {most}, got {value!r}")


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A queue as the store knows it: how it was born, and its limits now.

    born_fifo        bool              declared with a single active consumer; never changes but by migration
    born_priorities  bool              declared to obey priorities; the same
    partitions       int | None        FIFO lanes; the same
    parallelism      int | None        None is open
    rate_limit       RateLimit | None
    worker_parallelism int | None
    retry_in_place   bool
    paused           bool
    version          int               raised by every change
    origin           "code" | "operator"   who set the limits last; an operator's stand over code
    created_at, updated_at  datetime, UTC
    """

    name: str
    born_fifo: bool
    born_priorities: bool
    partitions: int | None
    parallelism: int | None
    rate_limit: RateLimit | None
    worker_parallelism: int | None
    retry_in_place: bool
    paused: bool
    version: int
    origin: str
    created_at: datetime
    updated_at: datetime


def lane_of(key: str, partitions: int) -> int:
    """The lane that messages with this key take: stable over processes, machines and versions."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
