"""Keys of flow control: what waits and runs, their limits, and what operators do to them."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from taskq.admin.flow import look
from taskq.api.context import Context, InContext
from taskq.api.errors import NotFound
from taskq.api.wire import BAD, MISSING, Done, Wire
from taskq.clock import to_ms
from taskq.duration import parse_duration
from taskq.errors import InvalidQueue, InvalidRequest, InvalidSetting
from taskq.flow import Flow, FlowRecord
from taskq.queue import RateLimit
from taskq.store.base import Store

router = APIRouter(prefix="/v2", tags=["flow control"])

PAGE = 500
NO_LIMIT = 2**31 - 1  # told as the most at once where there is no limit

Key = Annotated[str, Path(description="The flow control key.", min_length=1)]
Count = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


class FlowShown(Wire):
    """A key. Limits that it has not are absent; periods in seconds, their starts in seconds since the epoch."""

    flow_control_key: str
    wait_list_size: int
    parallelism_max: int | None = None
    parallelism_count: int
    rate_max: int | None = None
    rate_count: int
    rate_period: int | None = None
    rate_period_start: int | None = None
    is_paused: bool
    is_pinned_parallelism: bool
    is_pinned_rate: bool


class ParallelismShown(Wire):
    """How many deliveries with a key may run at once, whatever their keys, and how many do."""

    parallelism_max: int
    parallelism_count: int


@router.get("/flowControl", response_model_exclude_none=True)
async def list_keys(context: InContext, search: str = "") -> list[FlowShown]:
    """List the keys that contain a text, by key."""
    return [_shown(record) async for record in _records(await context.store(), search)]


@router.get("/globalParallelism")
async def global_parallelism(context: InContext) -> ParallelismShown:
    """Show how many deliveries with a key run."""
    running = sum([record.running async for record in _records(await context.store(), "")])
    most = context.settings.flow_parallelism or NO_LIMIT
    return ParallelismShown(parallelism_max=most, parallelism_count=running)


@router.post("/flowControl/{key:path}/pause", responses=BAD)
async def pause_key(key: Key, context: InContext) -> Done:
    """Start nothing more of the key; what comes waits."""
    return await _change(context, key, paused=True)


@router.post("/flowControl/{key:path}/resume", responses=BAD)
async def resume_key(key: Key, context: InContext) -> Done:
    """Start messages of the key again, in their order."""
    return await _change(context, key, paused=False)


@router.post("/flowControl/{key:path}/pin", responses=BAD)
async def pin_key(
    key: Key,
    context: InContext,
    parallelism: Count = None,
    rate: Count = None,
    period: Annotated[str | None, Query(description="Seconds, or a duration such as 1m.")] = None,
) -> Done:
    """Set limits of the key that stand whatever its messages say. What is not given stays as it is."""
    _check(key)
    changes: dict[str, Any] = {}
    if parallelism is not None:
        try:
            Flow(key, parallelism)
        except InvalidQueue as error:
            raise InvalidRequest(f"parallelism: {error}") from None
        changes |= {"parallelism": parallelism, "pinned_parallelism": True}
    if rate is not None or period is not None:
        record = await (await context.store()).get_flow(key)
        stands = None if record is None else record.rate_limit
        changes |= {"rate_limit": _rate(rate, period, stands), "pinned_rate": True}
    if not changes:
        raise InvalidRequest("nothing to pin: give parallelism, or rate and period, in the query")
    await _change(context, key, **changes)
    return await reset_rate(key, context)


@router.post("/flowControl/{key:path}/unpin", responses=BAD)
async def unpin_key(key: Key, context: InContext, parallelism: bool = False, rate: bool = False) -> Done:
    """Go by what messages say again; the limits stay until the next message says others."""
    changes = {name: False for name, given in (("pinned_parallelism", parallelism), ("pinned_rate", rate)) if given}
    if not changes:
        raise InvalidRequest("nothing to unpin: give parallelism=true or rate=true in the query")
    return await _change(context, key, **changes)


@router.post("/flowControl/{key:path}/resetRate", responses=BAD)
@router.post("/flowControl/{key:path}/reset", include_in_schema=False)
async def reset_rate(key: Key, context: InContext) -> Done:
    """Forget the starts of the key's present period: as many as its rate says may start now."""
    broker, store = await context.broker(), await context.store()
    await store.reset_flow(_check(key))
    await look(broker, store)
    return Done()


# Last: it takes any path.
@router.get("/flowControl/{key:path}", responses=BAD | MISSING, response_model_exclude_none=True)
async def get_key(key: Key, context: InContext) -> FlowShown:
    """Show one key."""
    record = await (await context.store()).get_flow(_check(key))
    if record is None:
        raise NotFound(f"no message has named flow control key {key!r}")
    return _shown(record)


async def _records(store: Store, search: str) -> AsyncIterator[FlowRecord]:
    cursor: str | None = None
    while True:
        page = await store.list_flow(search=search, cursor=cursor, limit=PAGE)
        for record in page.items:
            yield record
        cursor = page.cursor
        if cursor is None:
            return


async def _change(context: Context, key: str, **changes: Any) -> Done:
    """A key that no message has named is made: it can be paused or pinned before it is used."""
    broker, store = await context.broker(), await context.store()
    await store.set_flow(_check(key), **changes)
    await look(broker, store)
    return Done()


def _check(key: str) -> str:
    try:
        return Flow(key).key
    except InvalidSetting as error:
        raise InvalidRequest(f"flow control key: {error}") from None


def _rate(limit: int | None, period: str | None, stands: RateLimit | None) -> RateLimit:
    """The rate that is asked for; the half that is not given stays as it is."""
    if limit is None and stands is None:
        raise InvalidRequest(f"period {period!r:.80}: the key has no rate yet, give rate as well")
    seconds = (stands.per if stands is not None else 1.0) if period is None else _seconds(period)
    try:
        return RateLimit(limit or (stands.limit if stands is not None else 1), seconds)
    except InvalidQueue:
        raise InvalidRequest(f"period must be 1 s to 7 days, got {period!r:.80}") from None


def _seconds(period: str) -> float:
    if re.fullmatch(r"[0-9]{1,9}", period):
        return float(period)
    try:
        return parse_duration(period)
    except InvalidSetting as error:
        raise InvalidRequest(f"period: {error}, or seconds as a whole number") from None


def _shown(record: FlowRecord) -> FlowShown:
    rate = record.rate_limit
    return FlowShown(
        flow_control_key=record.key,
        wait_list_size=record.waiting,
        parallelism_max=record.parallelism,
        parallelism_count=record.running,
        rate_max=None if rate is None else rate.limit,
        rate_count=record.started,
        rate_period=None if rate is None else math.ceil(rate.per),
        rate_period_start=None if record.window_at is None else to_ms(record.window_at) // 1000,
        is_paused=record.paused,
        is_pinned_parallelism=record.pinned_parallelism,
        is_pinned_rate=record.pinned_rate,
    )
