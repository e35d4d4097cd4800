"""Queues of QStash's protocol: so many messages at once, one after the other by default.

Open queues, which have no such limit, are no queues of the protocol: /admin shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from taskq.admin.limits import change
from taskq.admin.queues import Queues
from taskq.api.context import Context, InContext
from taskq.api.errors import NotFound, PlanLimit
from taskq.api.publisher import check_own_queue
from taskq.api.wire import BAD, CONFLICT, LIMIT, MISSING, Done, Wire
from taskq.clock import to_ms
from taskq.queue import MAX_PARALLELISM, QueueRecord, check_queue_name

router = APIRouter(prefix="/v2/queues", tags=["queues"])

PATIENCE = 30.0  # seconds that workers may take to let go of a queue

Name = Annotated[str, Path(description="The queue's name: letters, digits, '.', '-' and '_'.")]


class QueueWanted(Wire):
    """A queue as it is to be. `paused`: None leaves it as it is."""

    queue_name: str
    parallelism: Annotated[int, Field(ge=1, strict=True)] = 1
    paused: Annotated[bool, Field(strict=True)] | None = None


class QueueShown(Wire):
    """A queue. Instants in ms since the epoch; `lag`: messages that are not finished."""

    name: str
    parallelism: int
    created_at: int
    updated_at: int
    lag: int
    paused: bool


@router.post("", responses=BAD | CONFLICT | LIMIT)
@router.post("/", include_in_schema=False)
async def put_queue(wanted: QueueWanted, context: InContext) -> Done:
    """Make a queue, or change its parallelism or whether it is paused."""
    name = check_own_queue(wanted.queue_name)
    if wanted.parallelism > MAX_PARALLELISM:
        raise PlanLimit(f"parallelism {wanted.parallelism:.3g}: a queue runs at most {MAX_PARALLELISM} at once")
    paused = ... if wanted.paused is None else wanted.paused
    async with context.changing(name):
        await (await _queues(context)).put(name, wanted.parallelism, paused=paused, patience=PATIENCE)
        (await context.publisher()).forget(name)
    return Done()


@router.get("")
@router.get("/", include_in_schema=False)
async def list_queues(context: InContext) -> list[QueueShown]:
    """List all queues, by name."""
    store = await context.store()
    records = [record for record in await store.list_queues() if record.parallelism is not None]
    lag = await store.lag([record.name for record in records])
    return [_shown(record, lag) for record in records]


@router.get("/{name}", responses=BAD | MISSING)
async def get_queue(name: Name, context: InContext) -> QueueShown:
    """Show one queue."""
    store = await context.store()
    record = await store.get_queue(check_queue_name(name))
    if record is None or record.parallelism is None:
        raise _unknown(name)
    return _shown(record, await store.lag([name]))


@router.delete("/{name}", responses=BAD | CONFLICT)
async def delete_queue(name: Name, context: InContext) -> Done:
    """Delete a queue. Its messages are cancelled. It is fine if there is none."""
    async with context.changing(name):
        await (await _queues(context)).delete(check_own_queue(name), patience=PATIENCE)
        (await context.publisher()).forget(name)
    return Done()


@router.post("/{name}/pause", responses=BAD | MISSING)
async def pause_queue(name: Name, context: InContext) -> Done:
    """Start nothing more of the queue; it goes on taking messages."""
    return await _pause(context, name, True)


@router.post("/{name}/resume", responses=BAD | MISSING)
async def resume_queue(name: Name, context: InContext) -> Done:
    """Start messages of the queue again."""
    return await _pause(context, name, False)


async def _pause(context: Context, name: str, paused: bool) -> Done:
    broker, store = await context.broker(), await context.store()
    if await store.get_queue(check_own_queue(name)) is None:
        raise _unknown(name)
    await change(broker, store, name, paused=paused)
    return Done()


async def _queues(context: Context) -> Queues:
    return Queues(
        broker=await context.broker(),
        store=await context.store(),
        clock=context.clock,
        make_broker=context.app.make_broker,
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"no queue is named {name!r}")


def _shown(record: QueueRecord, lag: Mapping[str, int]) -> QueueShown:
    return QueueShown(
        name=record.name,
        parallelism=record.parallelism or 1,
        created_at=to_ms(record.created_at),
        updated_at=to_ms(record.updated_at),
        lag=lag.get(record.name, 0),
        paused=record.paused,
    )
