"""Flow control by key: messages that share a key share a parallelism and a rate, over all queues and processes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from taskq.errors import InvalidSetting
from taskq.queue import MAX_PARALLELISM, RateLimit, check_count

MAX_KEY_CHARS = 200


@dataclass(frozen=True, slots=True)
class Flow:
    """What a message says about its key.

    Args:
        key: 1 to 200 characters.
        parallelism: at most so many runs of the key at once; None: no such limit.
        rate_limit: at most so many starts of the key in any period; None: no such limit.

    A message that gives either limit sets both for its key, unless they are pinned; one that gives
    none goes by what stands.
    """

    key: str
    parallelism: int | None = None
    rate_limit: RateLimit | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not 0 < len(self.key) <= MAX_KEY_CHARS:
            raise InvalidSetting(f"flow_key must be text of 1 to {MAX_KEY_CHARS} characters, got {self.key!r:.80}")
        check_count("flow_parallelism", self.parallelism, MAX_PARALLELISM)
        if self.rate_limit is not None and not isinstance(self.rate_limit, RateLimit):
            raise InvalidSetting(f"flow_rate takes a RateLimit(limit, per=seconds), got {self.rate_limit!r}")

    @property
    def limited(self) -> bool:
        """It says limits."""
        return self.parallelism is not None or self.rate_limit is not None

    def to_wire(self) -> list[object]:
        """The form in an envelope."""
        rate = self.rate_limit
        return [self.key, self.parallelism, rate and rate.limit, rate and rate.per]

    @classmethod
    def from_wire(cls, wire: list[object]) -> Flow:
        """Raises TypeError or ValueError for what `to_wire` never writes."""
        key, parallelism, limit, per = wire
        rate = None if limit is None else RateLimit(limit, per)  # type: ignore[arg-type]
        return cls(key, parallelism, rate)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """A key as the store knows it.

    parallelism        int | None, rate_limit RateLimit | None: its limits now
    paused             bool: nothing starts
    pinned_parallelism, pinned_rate  bool: messages do not change the limit
    waiting            int: messages that are due and wait for the key
    running            int: runs that hold a permit, and releases that have not begun
    started            int: starts within the present window; 0 without a rate
    window_at          datetime | None: when the oldest of them was; None without any
    updated_at         datetime
    """

    key: str
    parallelism: int | None
    rate_limit: RateLimit | None
    paused: bool
    pinned_parallelism: bool
    pinned_rate: bool
    waiting: int
    running: int
    started: int
    window_at: datetime | None
    updated_at: datetime
