"""What a logical queue may be."""

from __future__ import annotations

import pytest

from taskq.errors import InvalidQueue
from taskq.queue import Queue, RateLimit, check_queue_name, lane_of


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 200])
def test_names(name: str) -> None:
    """Letters, digits, dot, dash and underscore make a name of up to 200 characters."""
    assert check_queue_name(name) == Queue(name).name == name


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "é", "a\n", "x" * 201, None, 5, b"a"])
def test_names_refused(name: object) -> None:
    """Any other name is refused, shown at no more than 80 characters, with the rule."""
    with pytest.raises(InvalidQueue, match="use 1 to 200 letters") as caught:
        Queue(name)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"parallelism": 0}, "parallelism must be a whole number from 1 to 1024, got 0"),
        ({"parallelism": 1.0}, "got 1.0"),
        ({"parallelism": True}, "got True"),
        ({"parallelism": 1025}, "got 1025"),
        ({"worker_parallelism": -1}, "worker_parallelism must be"),
        ({"parallelism": 2, "worker_parallelism": 3}, "worker_parallelism 3 exceeds parallelism 2"),
        ({"parallelism": 1, "priorities": True}, "priorities would break its order"),
        ({"partitions": 4}, "need parallelism=1"),
        ({"parallelism": 2, "partitions": 4}, "need parallelism=1"),
        ({"parallelism": 1, "partitions": 0}, "partitions must be"),
        ({"rate_limit": (50, 30)}, r"takes a RateLimit\(limit, per=seconds\)"),
    ],
)
def test_refused(settings: dict, says: str) -> None:
    """Limits that contradict each other, or are none, are refused by name."""
    with pytest.raises(InvalidQueue, match=says):
        Queue("q", **settings)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "5", 1_000_000_001, 2**63])
def test_rate_limit(limit: object) -> None:
    """A rate is a whole number of starts, at least one, that every store can hold."""
    with pytest.raises(InvalidQueue, match="RateLimit.limit must be"):
        RateLimit(limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("per", [0, -1, float("nan"), 7 * 86400 + 1, "1s"])
def test_rate_period(per: object) -> None:
    """Its period is seconds, more than none and at most a week."""
    with pytest.raises(InvalidQueue, match="RateLimit.per must be"):
        RateLimit(1, per)  # type: ignore[arg-type]


def test_fifo() -> None:
    """A queue is FIFO exactly when one message runs at a time."""
    assert Queue("q", parallelism=1).fifo and Queue("q", parallelism=1, partitions=3).fifo
    assert not Queue("q").fifo and not Queue("q", parallelism=2).fifo


def test_lanes_never_change() -> None:
    """A key takes the same lane on every machine and in every version; odd keys take one too."""
    assert [lane_of(key, 16) for key in ("a", "customer-7")] == [15, 10]
    assert lane_of("\ud800", 16) in range(16)


def test_lanes_share_the_keys() -> None:
    """Keys spread over all lanes, none getting twice its share."""
    lanes = [lane_of(f"key-{n}", 8) for n in range(4000)]
    assert max(lanes.count(lane) for lane in range(8)) < 2 * 4000 / 8
