"""The harness's app with schedules, whose task notes which tick it is of."""

from __future__ import annotations

from taskq import TaskQ, current
from taskq.schedule import INSTANT_HEADER, SCHEDULE_HEADER
from tests.integration.harness_app import events, make_app

SECONDS = {"first": 1.0, "second": 1.0, "third": 1.0, "slow": 5.0}
CRON = "by-cron"
CRON_SECONDS = 2.0


async def tick() -> None:
    """Note the schedule, and the instant that this message is for."""
    headers = current().headers
    events.write("tick", 0, f"{headers[SCHEDULE_HEADER]} {headers[INSTANT_HEADER]}")


def add_schedules(app: TaskQ) -> None:
    task = app.task(name="tick", queue="ticks")(tick)
    for id, seconds in SECONDS.items():
        app.schedule(id, task, every=seconds)
    app.schedule(CRON, task, cron="*/2 * * * * *")


app = make_app()
add_schedules(app)
