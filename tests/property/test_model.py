"""The whole of taskq against its promises, under random histories.

A Hypothesis state machine sends, runs, fails, cancels, pauses, changes limits, kills at any step and lets time pass;
broker, store, keeper and workers are the real ones, in simulated time. After each step every message that was accepted
has a durable owner; at the end every one has its one outcome. `TASKQ_TEST_EXAMPLES` says how many histories are tried.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.property.model_world import PAIR, QUEUES, TOLD, Sent, Stage, WorkerProcess, World

EXAMPLES = int(os.environ.get("TASKQ_TEST_EXAMPLES", "50"))
STEPS = 40  # of one history
SHRINK_SECONDS = 40  # that a failing history may be made smaller
WORKERS = 3

queue_names = st.sampled_from(sorted(QUEUES))
spans = st.sampled_from([0.0, 0.02, 0.4, 2.5, TOLD])
endings = st.sampled_from(["ok", "ok", "fail", "snooze", "later", "reject"])
scripts = st.lists(st.tuples(spans, endings), max_size=4)
dedups = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["raise", "return_existing", "replace"]))
which = st.integers(0, 30)
STAGE: list[Stage] = []


class Model(RuleBasedStateMachine):
    """See the module."""

    world: World

    @initialize(seed=st.integers(0, 2**32), workers=st.integers(1, 2))
    def begin(self, seed: int, workers: int) -> None:
        if not STAGE:
            STAGE.append(Stage())
        self.world = World(STAGE[0], seed)
        for _ in range(workers):
            self.world.start_worker(keeper=True)
        self.world.run_for(1.0)

    # -- sending ----------------------------------------------------------------------------

    @rule(queue=queue_names, script=scripts, count=st.integers(1, 3))
    def send(self, queue: str, script: Sequence[tuple[float, str]], count: int) -> None:
        for _ in range(count):
            self.world.send([self.world.prepare(queue, script=script)], many=False)

    @rule(
        queue=queue_names,
        script=scripts,
        delay=st.sampled_from([0.01, 0.7, 3.0, 20.0]),
        expires=st.sampled_from([None, None, 1.0, 5.0]),
    )
    def send_delayed(self, queue: str, script: Sequence[tuple[float, str]], delay: float, expires: Any) -> None:
        self.world.send([self.world.prepare(queue, script=script, delay=delay, expires=expires)], many=False)

    @rule(queue=queue_names, script=scripts, dedup=dedups, delay=st.sampled_from([None, None, 3.0]))
    def send_once(self, queue: str, script: Sequence[tuple[float, str]], dedup: tuple[str, str], delay: Any) -> None:
        self.world.send([self.world.prepare(queue, script=script, dedup=dedup, delay=delay)], many=False)

    @rule(
        queues=st.lists(queue_names, min_size=1, max_size=6), script=scripts, delay=st.sampled_from([None, None, 1.0])
    )
    def send_many(self, queues: list[str], script: Sequence[tuple[float, str]], delay: Any) -> None:
        self.world.send([self.world.prepare(queue, script=script, delay=delay) for queue in queues], many=True)

    # -- time -------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 12.0, 40.0]))
    def run(self, seconds: float) -> None:
        self.world.run_for(seconds)

    @rule(turns=st.integers(1, 30))
    def turn(self, turns: int) -> None:
        self.world.turn(turns)

    @rule(which=which)
    def tell(self, which: int) -> None:
        waiting = [sent for sent in self.world.sent.values() if not sent.told.is_set()]
        if waiting:
            waiting[which % len(waiting)].told.set()

    # -- operating --------------------------------------------------------------------------

    @rule(which=which)
    def cancel(self, which: int) -> None:
        unfinished = self.unfinished()
        if unfinished:
            self.world.cancel(unfinished[which % len(unfinished)])

    @rule(queue=queue_names, paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        self.world.set_queue(queue, paused=paused)

    @rule(parallelism=st.integers(1, 4))
    def change_limit(self, parallelism: int) -> None:
        self.world.set_queue(PAIR.name, parallelism=parallelism)

    # -- workers and faults -----------------------------------------------------------------

    @precondition(lambda self: len(self.world.workers) < WORKERS)
    @rule(keeper=st.booleans())
    def start_worker(self, keeper: bool) -> None:
        self.world.start_worker(keeper=keeper)

    @precondition(lambda self: self.world.workers)
    @rule(which=which)
    def stop_worker(self, which: int) -> None:
        self.world.stop_worker(self.a_worker(which))

    @precondition(lambda self: self.world.workers)
    @rule(which=which, steps=st.integers(0, 40))
    def kill_worker(self, which: int, steps: int) -> None:
        process = self.a_worker(which).process
        if steps:
            process.fuse = steps
        else:
            process.die()

    @precondition(lambda self: any(self.leading(one) for one in self.world.workers))
    @rule(steps=st.integers(0, 12))
    def kill_keeper(self, steps: int) -> None:
        process = next(one.process for one in self.world.workers if self.leading(one))
        if steps:
            process.fuse = steps
        else:
            process.die()

    @rule(steps=st.integers(1, 8))
    def kill_sender(self, steps: int) -> None:
        self.world.sender.fuse = steps

    @precondition(lambda self: self.world.workers)
    @rule(which=which)
    def drop_connections(self, which: int) -> None:
        broker = self.a_worker(which).process.broker
        if broker is not None and broker.health().connected:
            broker.drop_connections()

    @precondition(lambda self: self.world.workers)
    @rule(which=which, seconds=st.sampled_from([0.1, 0.8, 3.0]))
    def slow_down(self, which: int, seconds: float) -> None:
        self.a_worker(which).process.slow = seconds

    @precondition(lambda self: self.world.workers)
    @rule(which=which, fault=st.sampled_from(["store_away", "answers_lost", "confirms_lost"]), calls=st.integers(1, 4))
    def lose_calls(self, which: int, fault: str, calls: int) -> None:
        setattr(self.a_worker(which).process, fault, calls)

    @rule(fault=st.sampled_from(["store_away", "answers_lost", "confirms_lost"]))
    def lose_senders_call(self, fault: str) -> None:
        setattr(self.world.sender, fault, 1)

    @rule()
    def heal(self) -> None:
        for one in self.world.workers:
            one.process.heal()

    # -- what holds -------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        world = self.world
        world.note_trouble()
        world.look_at_workers()
        world.read_outcomes()
        assert not world.broken, world.broken
        owned = world.under_way() | world.buried()
        lost = [sent for sent in self.unfinished() if sent.accepted and sent.id not in owned]
        assert not lost, f"nothing durable holds {lost}"
        finished = {sent.id for sent in world.sent.values() if sent.outcome is not None}
        holders = {row[0] for row in world.stage.sql("SELECT message_id FROM taskq_dedup")}
        assert holders <= owned | finished, f"deduplication ids are held by {holders - owned - finished}"

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.drain()
        finally:
            self.world.close()

    def drain(self) -> None:
        """No more faults: everything ends, and each as it should."""
        world = self.world
        for one in world.workers:
            one.process.heal()
        world.sender.heal()
        world.trouble = world.now
        for sent in world.sent.values():
            sent.told.set()
        for queue in list(world.paused):
            world.set_queue(queue, paused=False)
        world.start_worker(keeper=True)
        world.until(lambda: self.over())
        self.promises_hold()
        assert not self.missing(), f"still without an outcome: {self.missing()}"
        assert not world.under_way(), f"not over: {world.under_way()}"
        buried = world.buried()
        failed = {sent.id for sent in world.sent.values() if sent.outcome and sent.outcome[0] in ("FAILED", "EXPIRED")}
        assert failed == buried, f"failed, and not among the dead letters: {failed ^ buried}"
        assert not world.stage.sql("SELECT * FROM taskq_dedup")

    def over(self) -> bool:
        self.world.look_at_workers()
        self.world.read_outcomes()
        return bool(self.world.broken) or not (self.missing() or self.world.under_way())

    def missing(self) -> list[Sent]:
        """Those that must still end: what a sender was not told of may never have been sent."""
        return [sent for sent in self.unfinished() if sent.accepted]

    def unfinished(self) -> list[Sent]:
        return [sent for sent in self.world.sent.values() if sent.outcome is None]

    def a_worker(self, which: int) -> WorkerProcess:
        return self.world.workers[which % len(self.world.workers)]

    @staticmethod
    def leading(one: WorkerProcess) -> bool:
        return one.worker.keeper is not None and one.worker.keeper.leading


@pytest.mark.timeout(120 + EXAMPLES * 4)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # whose process died before
def test_every_history_keeps_the_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, recorded twice, out of order, above its limit, or begun after its cancel, whatever dies when."""
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINK_SECONDS)
    logging.disable(logging.CRITICAL)  # the faults are told of at length
    try:
        run_state_machine_as_test(
            Model,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
    gc.collect()  # what the dead have left goes while its warnings are expected
