"""A queue's rate: a rolling window over all processes, by the tasks' own clocks."""

from __future__ import annotations

from taskq import Queue, RateLimit
from tests.integration.harness import Station
from tests.integration.room import Room
from tests.support import eventually, pulse


async def test_the_window_is_never_exceeded_over_three_processes(station: Station) -> None:
    """start[i + limit] - start[i] >= per throughout, the first window used in full, the backlog left to the broker."""
    rate = RateLimit(20, per=2.0)
    queue = Queue("slow", rate_limit=rate)
    await station.ensure(queue)
    handles = await station.send(queue, [{"number": number} for number in range(90)])
    await station.start_ready(3, ["slow"])
    await station.log.until(lambda: len(station.log.of("start")) >= 20)
    from taskq.dispatch import task_queue

    broker = await station.app.client().broker()

    async def backlog_is_ready() -> bool:
        depth = await broker.depth(task_queue("slow"))
        started = len(station.log.of("start"))
        return depth is not None and depth.ready >= 90 - started - 3 * 16 and started < 60

    await eventually(backlog_is_ready)
    await station.all_recorded(handles, 40)
    starts = sorted(event.at for event in station.log.of("start"))
    assert len(starts) == 90
    gaps = [later - earlier for earlier, later in zip(starts, starts[20:], strict=False)]
    # A process that is stopped between its grant and its first line begins late, and nobody can know (guarantees.md).
    assert min(gaps) >= rate.per - pulse.lost(), min(gaps)
    assert starts[19] - starts[0] < rate.per + pulse.lost()
    # Four windows full and half of a fifth: no time is wasted either.
    assert starts[-1] - starts[0] < 4 * rate.per * 1.5 + 2 * pulse.lost()


async def test_while_the_window_is_full_the_backlog_stays_in_the_broker(room: Room) -> None:
    """The worker keeps none in hand that may not start for seconds; a limit lifted by an operator counts at once."""
    queue = Queue("slow", rate_limit=RateLimit(5, per=30))
    ran: list[int] = []

    @room.app.task(name="note", queue=queue)
    async def note(number: int) -> None:
        ran.append(number)

    handles = [await note.enqueue_async(number) for number in range(40)]
    await room.worker()
    await eventually(lambda: len(ran) == 5)

    async def all_ready() -> bool:
        return await room.depth(queue) == 35

    await eventually(all_ready)
    await room.set_queue("slow", rate_limit=None)
    for handle in handles:
        await handle.get_result_async(60)
    assert sorted(ran) == list(range(40))
