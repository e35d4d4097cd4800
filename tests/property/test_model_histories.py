"""Histories that the model found, each with what was wrong then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.property.model_world import FIFO, PACED, Stage, World


@pytest.fixture
def world() -> Iterator[World]:
    """Without workers yet."""
    world = World(Stage(), 0)
    yield world
    world.close()


def test_what_lost_its_delivery_before_it_began_does_not_begin(world: World) -> None:
    """The broker has given it to another worker, which runs it: a second run would be for nothing."""
    for keeper in (True, False):
        world.start_worker(keeper=keeper)
    world.run_for(1.0)
    processes = [one.process for one in world.workers]
    for process in processes:
        process.slow = 0.1
    sent, prepared = world.prepare(PACED.name, script=[])
    world.send([(sent, prepared)], many=False)
    world.turn(5)  # it has been delivered, and its start is asked for
    holder, other = processes if sent.id in processes[0].broker.in_hand() else reversed(processes)  # type: ignore[union-attr]
    other.heal()
    assert holder.broker is not None
    holder.broker.drop_connections()
    world.run_for(5.0)
    world.read_outcomes()
    assert sent.outcome is not None and len(sent.runs) == 1
    assert not world.broken


def test_a_cancel_that_a_lost_connection_kept_from_a_worker_is_known_before_the_next_start(world: World) -> None:
    """Nobody brought the message before, so nothing but the missed broadcast says that there is something to ask."""
    world.start_worker(keeper=True)
    world.run_for(1.0)
    (worker,) = world.workers
    worker.process.slow = 0.8
    head, behind = (world.prepare(FIFO.name, script=[]) for _ in range(2))
    world.send([head], many=False)
    world.send([behind], many=False)
    while head[0].outcome is None:
        world.run_for(0.01)
        world.read_outcomes()
    world.cancel(behind[0])
    assert worker.process.broker is not None
    worker.process.broker.drop_connections()
    world.run_for(10.0)
    world.read_outcomes()
    assert not world.broken
    assert behind[0].outcome == ("CANCELLED", None) and not behind[0].runs


def test_a_cancel_that_is_told_while_a_worker_reads_all_cancels_is_kept(world: World) -> None:
    """What the worker reads as it starts was read before the cancel, and does not take its place."""
    sent = world.prepare(FIFO.name, script=[])
    world.send([sent], many=False)
    world.start_worker(keeper=True)
    (worker,) = world.workers
    worker.process.slow = 0.1
    world.run_for(0.35)  # it listens, and the store has answered, but the answer is still on its way
    world.cancel(sent[0])
    world.run_for(10.0)
    world.read_outcomes()
    assert not world.broken
    assert sent[0].outcome == ("CANCELLED", None) and not sent[0].runs
