"""Schedules: by cron and by interval, in code and at run time; pausing, looking ahead and back; a machine that slept.

Somebody has to beat: `taskq beat schedules:app`, `taskq worker schedules:app --beat`, or as here a worker with a beat.

    python examples/schedules.py
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from running import an_app, worker

from taskq import Status, current
from taskq.clock import SystemClock
from taskq.store import open_store

PARIS = ZoneInfo("Europe/Paris")


class Machine(SystemClock):
    """Its clock shows what that of a machine does which was put to sleep."""

    slept = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.slept


machine = Machine()
app = an_app(clock=machine)
app.make_store = lambda: open_store(app.settings.store, clock=machine)  # programs that do not travel in time need none


@app.task(cron="0 9 * * MON-FRI", timezone="Europe/Paris")
async def open_shop() -> str:
    return "good morning"


@app.task(every=1)
async def water_flowers() -> None: ...


@app.task
async def bill(customer: str) -> str:
    return f"{customer}: {current().headers.get('taskq-scheduled-for')}"


for policy in ("skip", "last", "all"):
    app.schedule(f"bill-{policy}", bill, cron="@hourly", args=["ada"], catch_up=policy)


async def until(fact: Callable[[], Awaitable[object]], within: float = 20) -> None:
    deadline = machine.monotonic() + within
    while not await fact():
        assert machine.monotonic() < deadline, fact.__name__
        await asyncio.sleep(0.05)


async def fired(id: str) -> int:
    info = await app.schedules.get_async(id)
    return info.fired if info else 0


async def in_code() -> None:
    async def twice() -> bool:
        return await fired("schedules.water_flowers") >= 2

    await until(twice)
    print("every second: fired twice")
    upcoming = [at.astimezone(PARIS) for at in await app.schedules.next_async("schedules.open_shop", 5)]
    assert all((at.hour, at.minute) == (9, 0) and at.weekday() < 5 for at in upcoming), upcoming
    print("weekdays at nine in Paris:", ", ".join(f"{at:%a %d %b %H:%M %Z}" for at in upcoming))
    handle = await app.schedules.run_now_async("schedules.open_shop")
    assert await handle.get_result_async(timeout=20) == "good morning"


async def at_run_time() -> None:
    made = await app.schedules.upsert_async("bob", bill, every=1, args=["bob"], max_runs=3)
    assert (made.when, made.origin) == ("every 1 s", "operator")

    async def once() -> bool:
        return await fired("bob") >= 1

    await until(once)
    await app.schedules.pause_async("bob")
    before, flowers = await fired("bob"), await fired("schedules.water_flowers")

    async def others_went_on() -> bool:
        return await fired("schedules.water_flowers") >= flowers + 2

    await until(others_went_on)
    assert await fired("bob") == before, "a paused schedule fired"
    await app.schedules.resume_async("bob")

    async def all_billed() -> bool:
        ticks = await app.schedules.history_async("bob")
        return len(ticks) == 3 and all(tick.message and tick.message.status is Status.SUCCEEDED for tick in ticks)

    await until(all_billed)
    bob = await app.schedules.get_async("bob")
    assert bob and bob.fired == 3 and bob.next_at is None, bob  # max_runs
    print("bob was billed three times, never while paused")
    await app.schedules.delete_async("bob")


async def machine_sleeps() -> None:
    """Three full hours pass, and nobody beats: what is sent for them is each schedule's policy."""
    began = machine.now()
    woken = (began + timedelta(hours=3)).replace(minute=30, second=0, microsecond=0)
    machine.slept += woken - began

    async def all_looked_after() -> bool:
        infos = [await app.schedules.get_async(f"bill-{policy}") for policy in ("skip", "last", "all")]
        return all(info and info.next_at and info.next_at > woken for info in infos)

    await until(all_looked_after)
    sent = {}
    for policy in ("skip", "last", "all"):
        sent[policy] = sum(tick.instant > began for tick in await app.schedules.history_async(f"bill-{policy}"))
    assert sent == {"skip": 0, "last": 1, "all": 3}, sent
    print("of 3 ticks that were slept through, sent:", ", ".join(f"{policy} {sent[policy]}" for policy in sent))


async def main() -> None:
    async with worker(app, beat=True):
        await in_code()
        await at_run_time()
        await machine_sleeps()


if __name__ == "__main__":
    asyncio.run(main())
