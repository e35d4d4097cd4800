"""When a failed attempt is tried again: how often, how long after, for which errors.

Arithmetic only. QStash's delay expressions are parsed in `expression`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from taskq.errors import InvalidSetting
from taskq.expression import Expression

logger = logging.getLogger("taskq.retry")

MAX_RETRIES = 1_000_000
YEAR = 366 * 86400.0  # seconds
DEFAULT_MAX_DELAY = 600.0
FALLBACK_DELAY = 86400.0

Delay = float | str | Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Retry:
    """How the attempts of a task follow each other.

    Args:
        max_retries: attempts after the first; 0 never retries.
        delay: None: exponential (`base * 2**retried`). Seconds as a number: constant. A function of
            `retried` (0 before the first retry) giving seconds. Text: QStash's expression over
            `retried`, giving milliseconds, such as `"pow(2, retried) * 1000"`.
        jitter: the share of the delay that chance may take away, 0 to 1. 1 is full jitter:
            anything from nothing to the delay.
        max_delay: seconds that no delay exceeds; None: ten minutes for the default exponential, a
            year for a delay that is spelled out.
        base: seconds of the exponential's first delay.
        on: only these exceptions are retried; empty: all.
        not_on: these are never retried; wins over `on`.
    """

    max_retries: int = 3
    delay: Delay | None = None
    jitter: float | None = None
    max_delay: float | None = None
    base: float = 1.0
    on: tuple[type[BaseException], ...] = ()
    not_on: tuple[type[BaseException], ...] = ()
    _expression: Expression | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int or not 0 <= self.max_retries <= MAX_RETRIES:
            raise InvalidSetting(
                f"max_retries must be a whole number from 0 to {MAX_RETRIES}, got {self.max_retries!r}"
            )
        if self.jitter is None:
            # What a user spells out is kept to the letter; only the default backoff is spread.
            object.__setattr__(self, "jitter", 1.0 if self.delay is None else 0.0)
        if not isinstance(self.jitter, int | float) or not 0.0 <= self.jitter <= 1.0:
            raise InvalidSetting(f"jitter must be from 0 to 1, got {self.jitter!r}")
        if self.max_delay is None:
            object.__setattr__(self, "max_delay", DEFAULT_MAX_DELAY if self.delay is None else YEAR)
        if not isinstance(self.max_delay, int | float) or not 0 < self.max_delay <= YEAR:
            raise InvalidSetting(f"max_delay must be seconds above 0 and at most a year, got {self.max_delay!r}")
        if not isinstance(self.base, int | float) or not 0 < self.base <= YEAR:
            raise InvalidSetting(f"base must be seconds above 0 and at most a year, got {self.base!r:.80}")
        if isinstance(self.delay, str):
            object.__setattr__(self, "_expression", Expression.parse(self.delay))
        elif isinstance(self.delay, int | float) and not 0 <= self.delay <= YEAR:
            raise InvalidSetting(f"a retry's delay must be seconds from 0 to a year, got {self.delay!r}")
        elif self.delay is not None and not isinstance(self.delay, int | float) and not callable(self.delay):
            raise InvalidSetting(f"a retry's delay is seconds, a function or an expression, got {self.delay!r}")
        for name in ("on", "not_on"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, type) else tuple(value)
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in value):
                raise InvalidSetting(f"{name} takes exception classes, got {value!r}")
            object.__setattr__(self, name, value)

    def covers(self, error: BaseException) -> bool:
        """Whether this error may be retried at all."""
        if isinstance(error, self.not_on):
            return False
        return not self.on or isinstance(error, self.on)

    def delay_after(self, retried: int, *, rng: Random) -> float:
        """Seconds from a failure to the next attempt.

        Args:
            retried: retries made so far, 0 before the first.
            rng: where the jitter comes from.

        A function that raises, or gives no number, costs a day of delay, not the message.
        """
        if self._expression is not None:
            seconds = self._expression.evaluate(retried) / 1000
        elif callable(self.delay):
            seconds = self._ask(self.delay, retried)
        elif self.delay is not None:
            seconds = float(self.delay)
        else:
            seconds = self.base * 2.0 ** min(retried, 64)
        assert self.max_delay is not None and self.jitter is not None  # set since __post_init__
        seconds = min(max(seconds, 0.0), self.max_delay)
        return seconds * (1.0 - self.jitter * rng.random())

    def _ask(self, function: Callable[[int], float], retried: int) -> float:
        try:
            seconds = float(function(retried))
        except Exception:
            logger.exception("the delay function of a Retry failed; the message waits a day, or max_delay")
            return FALLBACK_DELAY
        return FALLBACK_DELAY if math.isnan(seconds) else seconds

    def to_wire(self) -> dict[str, Any]:
        """What of this policy travels in a message: functions and classes do not.

        Raises:
            InvalidSetting: the policy has a part that cannot travel.
        """
        if callable(self.delay) or self.on or self.not_on:
            raise InvalidSetting("options(retry=…) takes a number or an expression as delay, and no on/not_on")
        return {
            "max": self.max_retries,
            "delay": self.delay,
            "jitter": self.jitter,
            "most": self.max_delay,
            "base": self.base,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Retry:
        return cls(
            max_retries=wire["max"],
            delay=wire["delay"],
            jitter=wire["jitter"],
            max_delay=wire["most"],
            base=wire["base"],
        )
