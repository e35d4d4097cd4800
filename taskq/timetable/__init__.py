"""When things fall due: cron, intervals, single instants, and what becomes of instants that were missed.

Values and arithmetic only: no store, no broker, and the present instant is always an argument.

    Cron("30 2 * * *", "Europe/Paris")    wall-clock times of a zone; CRON_TZ=Zone may stand before the text
    Every(30.0, start)                    an interval of real time, counted from its start
    Once(at)                              a single instant

    .next_after(instant)                  the first instant after that one; None: there is none
    .previous_before(instant)             the last one before it
    .between(after, until, limit)         those after `after`, up to and with `until`

    Plan(timetable, jitter=…, starts_at=…, ends_at=…, max_runs=…, catch_up="skip" | "last" | "all")
    .next_after(instant, runs=…)          as above, within the plan's bounds
    .upcoming(after, count, runs=…)       what a user asks for
    .fires_at(id, instant)                the instant with its share of the jitter
    .due(id, seen=…, now=…, runs=…)       Due(instants to fire now, seen, next_at, missed)

Instants that come in are aware, in any zone; those that go out are aware UTC, in whole milliseconds (cron: whole
seconds). All values are frozen, compare by what they mean, and can be pickled. What cannot be is refused when the value
is made, as InvalidSchedule: a cron that is none, a date that never comes, a zone that is not known, an interval of 0.

`fields` reads cron texts, `zone` knows when a zone's offset changes, `cron` puts both together (and says what happens
to hours that are skipped or repeated), `interval` has Every and Once, `plan` the policies.
"""

from __future__ import annotations

from taskq.timetable.base import EPOCH, LATEST, Timetable
from taskq.timetable.cron import Cron
from taskq.timetable.interval import LONGEST_INTERVAL, SHORTEST_INTERVAL, Every, Once
from taskq.timetable.plan import CATCH_UP, LONGEST_JITTER, MOST_CAUGHT_UP, Due, Plan

__all__ = [
    "Timetable",
    "Cron",
    "Every",
    "Once",
    "Plan",
    "Due",
    # bounds
    "EPOCH",
    "LATEST",
    "SHORTEST_INTERVAL",
    "LONGEST_INTERVAL",
    "LONGEST_JITTER",
    "MOST_CAUGHT_UP",
    "CATCH_UP",
]
