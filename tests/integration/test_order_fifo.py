"""Order on FIFO queues: through failures, kills, joins, lanes and changed limits."""

from __future__ import annotations

import pytest

from taskq import Queue
from tests.integration.harness import Station, assert_in_order, longest_gap, most_at_once
from tests.integration.outcomes import Outcomes

pytestmark = pytest.mark.anyio

FIFO_MESSAGES = 500
FIFO_KILLS = 10


async def test_order_holds_while_attempts_fail_and_workers_are_killed(station: Station, outcomes: Outcomes) -> None:
    """500 messages run one at a time and in order, each recorded once, through 50 failures and 10 SIGKILLs."""
    queue = Queue("ledger", parallelism=1)
    steps = [{"number": i, "seconds": 0.008, "fails": int(i % 10 == 3)} for i in range(FIFO_MESSAGES)]
    await station.ensure(queue)
    await station.start_ready(3, ["ledger"])
    handles = await station.send(queue, steps)
    for kill in range(FIFO_KILLS):
        await station.log.until(lambda: len(station.log.done()) >= 45 * (kill + 1))  # noqa: B023 - awaited here
        station.worker(station.log.of("start")[-1].pid).kill()
        station.start(["ledger"])
    counts = await station.all_recorded(handles, 60)
    spans = station.spans(queue="ledger")
    print(f"FIFO: {len(spans)} attempts, longest gap {longest_gap(spans):.2f} s")
    assert counts == {"SUCCEEDED": FIFO_MESSAGES}
    assert most_at_once(spans) == 1
    assert_in_order(spans)
    assert len(station.log.of("fail")) >= FIFO_MESSAGES // 10
    assert outcomes.recorded() == {handle.id: 1 for handle in handles}
