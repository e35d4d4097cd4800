"""Shares: what each worker should hold at most."""

from __future__ import annotations

import pytest

from taskq.worker.spread import FORGET_AFTER, Peers, share, slot_share


def peers_of(*served: list[str]) -> Peers:
    peers = Peers()
    for index, queues in enumerate(served):
        peers.heard(f"worker-{index}", queues, 0.0)
    return peers


def test_alone_a_worker_holds_everything() -> None:
    """Without peers the share is all there is."""
    assert share([f"q{i}" for i in range(12)], Peers()) == 12
    assert slot_share(5, "q", Peers()) == 5


@pytest.mark.parametrize(("workers", "expected"), [(2, 6), (3, 4), (5, 3), (12, 1), (13, 1)])
def test_the_share_is_the_even_part_rounded_up(workers: int, expected: int) -> None:
    """Twelve queues over n workers are at most ceil(12 / n) for each."""
    queues = [f"q{i}" for i in range(12)]
    assert share(queues, peers_of(*[queues] * (workers - 1))) == expected


def test_only_workers_that_serve_a_queue_share_it() -> None:
    """A peer that serves half of the queues takes its part of that half only."""
    mine = ["a", "b", "c", "d"]
    assert share(mine, peers_of(["a", "b"])) == 3


def test_shares_add_up_to_everything() -> None:
    """If each worker held its share, nothing would be left over, whatever serves what."""
    served = [["a", "b", "c"], ["b", "c", "d"], ["a", "d", "e"]]
    total = sum(share(mine, peers_of(*[other for other in served if other is not mine])) for mine in served)
    assert total >= len({queue for mine in served for queue in mine})


def test_silent_peers_are_forgotten() -> None:
    """A worker that announces itself no more counts no more."""
    peers = peers_of(["a"])
    peers.prune(FORGET_AFTER + 1)
    assert peers.serving("a") == 0


def test_news_are_new_once() -> None:
    """An announcement is news when the worker is unknown or serves other queues than before."""
    peers = Peers()
    assert [peers.heard("w", queues, 0.0) for queues in (["a"], ["a"], ["a", "b"])] == [True, False, True]
