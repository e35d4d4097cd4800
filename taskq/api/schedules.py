"""Schedules of QStash's protocol, on the beat: what a tick sends is an ordinary message."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse

from taskq.api.context import Context, InContext
from taskq.api.errors import NotFound
from taskq.api.messages import caller_of, destination_of, headers_of
from taskq.api.publisher import Order
from taskq.api.views import View, schedule_view
from taskq.api.wire import BAD, MISSING, Done
from taskq.clock import to_ms
from taskq.errors import InvalidRequest
from taskq.http import publishing
from taskq.outcome import Status
from taskq.schedule import Schedule, make_schedule, plan_of
from taskq.store.base import Firing, ScheduleRecord, Store

router = APIRouter(prefix="/v2/schedules", tags=["schedules"])

PAGE = 1000
MEMBERS_MOST = 1000  # messages of one tick whose states are shown
Id = Annotated[str, Path(description="The schedule's id.")]


@router.get("")
@router.get("/", include_in_schema=False)
async def list_schedules(context: InContext) -> list[dict[str, Any]]:
    """List all schedules, by id."""
    store = await context.store()
    page = await store.list_schedules(context.settings.name, limit=PAGE)
    records: list[ScheduleRecord] = page.items
    while page.cursor is not None:
        page = await store.list_schedules(context.settings.name, cursor=page.cursor, limit=PAGE)
        records += page.items
    views = [await _shown(context, store, record) for record in records]
    return [view for view in views if view is not None]


@router.get("/{schedule_id}", responses=MISSING)
async def get_schedule(schedule_id: Id, context: InContext) -> dict[str, Any]:
    """Show one schedule."""
    store = await context.store()
    record = await store.get_schedule(context.settings.name, schedule_id)
    view = None if record is None else await _shown(context, store, record)
    if view is None:
        raise _unknown(schedule_id)
    return view


@router.delete("/{schedule_id}")
async def delete_schedule(schedule_id: Id, context: InContext) -> Done:
    """Delete a schedule; messages that it has sent stay. It is fine if there is none."""
    await (await context.store()).delete_schedule(context.settings.name, schedule_id)
    return Done()


@router.post("/{schedule_id}/pause", responses=MISSING)
@router.patch("/{schedule_id}/pause", responses=MISSING)
async def pause_schedule(schedule_id: Id, context: InContext) -> Done:
    """Send nothing until it is resumed."""
    if await (await context.store()).pause_schedule(context.settings.name, schedule_id) is None:
        raise _unknown(schedule_id)
    return Done()


@router.post("/{schedule_id}/resume", responses=MISSING)
@router.patch("/{schedule_id}/resume", responses=MISSING)
async def resume_schedule(schedule_id: Id, context: InContext) -> Done:
    """Go on; what it would have sent meanwhile is not sent."""
    store = await context.store()
    record = await store.get_schedule(context.settings.name, schedule_id)
    if record is None:
        raise _unknown(schedule_id)
    first = Schedule.of(record.row).first_after(await store.now(), runs=record.fired)
    await store.resume_schedule(context.settings.name, schedule_id, next_at=first)
    return Done()


@router.post("/{destination:path}", responses=BAD | MISSING)
async def put_schedule(request: Request, destination: str, context: InContext) -> JSONResponse:
    """Make a schedule, or overwrite the one of the id given: what to send where, and by which cron."""
    destination, query = destination_of(request, 3)
    headers = headers_of(request)
    said = publishing.read(headers, query)
    if said.cron is None:
        raise InvalidRequest(
            "Upstash-Cron is missing: such as 0 9 * * MON-FRI, in UTC, or after CRON_TZ=Zone in that zone"
        )
    id = said.schedule_id or f"scd_{secrets.token_hex(12)}"
    order = Order(destination, headers, query, await request.body(), said.queue_name, caller_of(request))
    template = await (await context.publisher()).template(order, id)
    schedule = make_schedule(id, plan_of(id, {"cron": said.cron}), template, "allow")
    store = await context.store()
    first = schedule.first_after(await store.now())
    await store.put_schedule(schedule.to_row(context.settings.name), next_at=first, origin="operator")
    return JSONResponse({"scheduleId": id})


async def _shown(context: Context, store: Store, record: ScheduleRecord) -> View | None:
    schedule = Schedule.of(record.row)
    view = schedule_view(schedule.message)
    if view is None:
        return None  # of a Python task, declared in code: not of this protocol
    view |= {
        "scheduleId": record.row.id,
        "cron": str(schedule.plan.timetable),
        "createdAt": to_ms(record.created_at),
        "isPaused": record.paused,
    }
    if record.next_at is not None and record.error is None:
        view["nextScheduleTime"] = to_ms(record.next_at)
    if record.last_at is not None:
        view["lastScheduleTime"] = to_ms(record.last_at)
        firings = await store.firings(context.settings.name, record.row.id, limit=MEMBERS_MOST)
        view["lastScheduleStates"] = _states([one for one in firings if one.instant == record.last_at])
    if record.error is not None:
        view["error"] = record.error
    return view


def _states(firings: Sequence[Firing]) -> Mapping[str, str]:
    return {firing.message_id: _state(firing) for firing in firings}


def _state(firing: Firing) -> str:
    if firing.message is None or not firing.message.status.final:
        return "IN_PROGRESS"
    return "SUCCESS" if firing.message.status is Status.SUCCEEDED else "FAIL"


def _unknown(id: str) -> NotFound:
    return NotFound(f"no schedule has the id {id!r:.80}")
