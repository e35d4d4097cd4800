"""How far the keeper lets messages go ahead of those that have begun."""

from __future__ import annotations

from taskq.keeper.release import AHEAD_FIRST, AHEAD_LEAST, AHEAD_MOST, MOMENT, Ahead
from taskq.store.base import WaitingRow
from tests.contract.store_support import START, make


def rows(count: int, queue: str = "q") -> list[WaitingRow]:
    return [WaitingRow(make(queue=queue), START) for _ in range(count)]


def test_a_queue_holds_as_many_as_begin_in_a_moment() -> None:
    """However often it is looked at: many small rounds are as good as few large ones."""
    for rounds in (1, 8):
        ahead = Ahead()
        ahead.went(rows(AHEAD_FIRST), 0.0)
        for number in range(1, rounds + 1):
            ahead.went(rows(AHEAD_FIRST // rounds), number * MOMENT / rounds)
        assert ahead.of_queues == {"q": 2 * AHEAD_FIRST}


def test_a_queue_that_is_slow_holds_few() -> None:
    """Half as many where but few begin, down to the least; another queue's is its own."""
    ahead = Ahead()
    ahead.went(rows(AHEAD_FIRST), 0.0)
    ahead.went(rows(AHEAD_FIRST, "other"), 0.0)
    for number in range(1, 6):
        ahead.went(rows(1), number * 10.0)
    assert ahead.of_queues == {"q": AHEAD_LEAST, "other": AHEAD_FIRST}


def test_a_queue_holds_a_thousand_at_most() -> None:
    ahead = Ahead()
    for number in range(20):
        ahead.went(rows(2 * AHEAD_MOST), number * MOMENT)
    assert ahead.of_queues == {"q": AHEAD_MOST}
