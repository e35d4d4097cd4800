"""When a failed attempt is tried again."""

from __future__ import annotations

import logging
from random import Random

import pytest

from taskq.errors import InvalidSetting
from taskq.retry import YEAR, Retry


class NoChance(Random):
    """Takes nothing away."""

    def random(self) -> float:
        return 0.0


def delays(policy: Retry, count: int = 4) -> list[float]:
    return [policy.delay_after(retried, rng=NoChance()) for retried in range(count)]


def test_default_is_exponential_with_full_jitter() -> None:
    """Without a word: three retries, after at most 1, 2, 4 seconds and never more than ten minutes, chance deciding."""
    policy = Retry()
    assert (policy.max_retries, policy.jitter, policy.max_delay) == (3, 1.0, 600.0)
    assert delays(policy) == [1, 2, 4, 8]
    assert policy.delay_after(1_000_000, rng=NoChance()) == 600
    rng = Random(1)
    spread = [policy.delay_after(3, rng=rng) for _ in range(200)]
    assert min(spread) < 1 and max(spread) > 7


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (3600, [3600, 3600]),
        (0, [0, 0]),
        ("pow(2, retried) * 1000", [1, 2]),
        (lambda retried: 10.0 * retried, [0, 10]),
        (lambda retried: -5, [0, 0]),
        (lambda retried: float("inf"), [YEAR, YEAR]),
    ],
)
def test_a_spelled_out_delay_is_kept_to_the_letter(delay: object, expected: list[float]) -> None:
    """Seconds, an expression in milliseconds or a function are neither spread nor cut to the default's ten minutes."""
    policy = Retry(delay=delay)  # type: ignore[arg-type]
    assert policy.jitter == 0.0
    assert delays(policy, 2) == expected


@pytest.mark.parametrize("delay", [lambda retried: 1 / 0, lambda retried: float("nan"), lambda retried: "soon"])
def test_a_broken_function_costs_no_message(delay: object, caplog: pytest.LogCaptureFixture) -> None:
    """A delay function that fails means a day, or `max_delay` if that is less; what it raised is logged."""
    with caplog.at_level(logging.ERROR):
        assert delays(Retry(delay=delay), 1) == [86400]  # type: ignore[arg-type]
        assert delays(Retry(delay=delay, max_delay=5), 1) == [5]  # type: ignore[arg-type]
    assert all("delay function" in record.message for record in caplog.records)


def test_jitter_takes_its_share() -> None:
    """Half a jitter leaves at least half of the delay."""
    rng = Random(2)
    spread = [Retry(delay=100, jitter=0.5).delay_after(0, rng=rng) for _ in range(200)]
    assert min(spread) >= 50 and min(spread) < 55 and max(spread) <= 100


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_retries": -1}, "max_retries must be a whole number"),
        ({"max_retries": 1.5}, "got 1.5"),
        ({"max_retries": True}, "got True"),
        ({"jitter": 1.1}, "jitter must be from 0 to 1, got 1.1"),
        ({"jitter": "full"}, "got 'full'"),
        ({"max_delay": 0}, "max_delay must be seconds above 0"),
        ({"max_delay": "1h"}, "got '1h'"),
        ({"base": 0}, "base must be seconds above 0 and at most a year, got 0"),
        ({"base": None}, "got None"),
        ({"delay": -1}, "seconds from 0 to a year, got -1"),
        ({"delay": float("nan")}, "got nan"),
        ({"delay": "pow(2"}, "position 6"),
        ({"delay": [1]}, r"got \[1\]"),
        ({"on": (5,)}, "on takes exception classes"),
    ],
)
def test_refused(settings: dict, says: str) -> None:
    """A policy that cannot be is refused where it is made, naming the value."""
    with pytest.raises(InvalidSetting, match=says):
        Retry(**settings)


def test_which_errors() -> None:
    """`not_on` wins over `on`; one class may stand without a tuple; nothing named covers all."""
    policy = Retry(on=OSError, not_on=(ConnectionError,))  # type: ignore[arg-type]
    assert policy.covers(OSError()) and policy.covers(TimeoutError())
    assert not policy.covers(ConnectionResetError()) and not policy.covers(ValueError())
    assert Retry().covers(ValueError())


@pytest.mark.parametrize(
    "policy", [Retry(), Retry(9, delay=2.5, jitter=0.25), Retry(delay="retried * 10", max_delay=7)]
)
def test_travels(policy: Retry) -> None:
    """A policy comes back from its wire form as it was."""
    assert Retry.from_wire(policy.to_wire()) == policy


def test_functions_do_not_travel() -> None:
    """A policy with a function or with classes cannot be put into a message."""
    for policy in (Retry(delay=lambda retried: 1.0), Retry(on=(OSError,)), Retry(not_on=(OSError,))):
        with pytest.raises(InvalidSetting, match="number or an expression"):
            policy.to_wire()
