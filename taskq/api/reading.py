"""Messages of QStash's protocol after they were published: show them, and cancel them.

A message that has ended is shown for a minute more, so that it can be read back right after it was published; a
cancelled one is not. Messages that never were requests are shown under /admin.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from taskq.api.answer import answer
from taskq.api.context import Context, InContext
from taskq.api.errors import NotFound
from taskq.api.selection import FILTERS, MOST_CANCELLED, described, said
from taskq.api.shapes import Cancelled, MessageShape, giving
from taskq.api.views import message_view
from taskq.api.wire import BAD, MISSING
from taskq.outcome import Status
from taskq.store.base import CancelEffect
from taskq.store.gateway import RequestFilter, RequestRecord

router = APIRouter(prefix="/v2/messages", tags=["messages"])

SHOWN_FOR = timedelta(minutes=1)
PAGE = 200

Id = Annotated[str, Path(description="The message's id.")]


@router.get("/{message_id}", responses=MISSING | giving(MessageShape))
async def get_message(message_id: Id, context: InContext) -> Response:
    """Show a message that is on its way, or ended less than a minute ago."""
    store = await context.store()
    found = await store.get_request(message_id)
    if found is None or found.record is None or found.record.status is Status.CANCELLED:
        raise _unknown(message_id)
    view = message_view(found.message)
    if view is None or not _recent(found, await store.now()):
        raise _unknown(message_id)
    return answer(view)


@router.delete("/{message_id}", responses=MISSING | giving(Cancelled))
async def cancel_message(message_id: Id, context: InContext) -> Response:
    """Cancel a message: 1, or 0 if it ended within the last minute. An attempt that is under way may still arrive."""
    store = await context.store()
    found = await store.get_request(message_id)
    if found is None or not _recent(found, await store.now()):
        raise _unknown(message_id)
    return answer({"cancelled": await _cancel(context, [message_id])})


@router.delete(
    "",
    responses=BAD | giving(Cancelled),
    openapi_extra=described(FILTERS, "count", most=MOST_CANCELLED, body="messageIds"),
)
async def cancel_messages(request: Request, context: InContext) -> Response:
    """Cancel the messages of these ids; or those that fit the filters, at most `count`, the newest first. Without any
    filter all are cancelled. None is counted twice, however often it is asked for."""
    selection, lists = said(request.query_params.multi_items(), await request.body())
    most = selection.number("count", low=1, high=MOST_CANCELLED)
    which = selection.requests(cancellable=True, most_ids=None)
    if which.ids or lists.get("messageIds") == []:
        return answer({"cancelled": await _cancel_known(context, which.ids)})
    selection.check_bulk()
    return answer({"cancelled": await _cancel_fitting(context, which, most)})


async def _cancel_known(context: Context, ids: Sequence[str]) -> int:
    """Cancel those of the ids that are requests, have not ended, and were not cancelled before; how many."""
    cancelled = 0
    for start in range(0, len(ids), PAGE):
        which = RequestFilter(ids=ids[start : start + PAGE], unfinished=True, uncancelled=True)
        page = await (await context.store()).list_requests(which, limit=PAGE)
        cancelled += await _cancel(context, [found.message.id for found in page.items])
    return cancelled


async def _cancel_fitting(context: Context, which: RequestFilter, most: int | None) -> int:
    store = await context.store()
    cancelled, cursor = 0, None
    while True:
        left = PAGE if most is None else min(PAGE, most - cancelled)
        page = await store.list_requests(which, cursor=cursor, limit=left)
        cancelled += await _cancel(context, [found.message.id for found in page.items])
        cursor = page.cursor
        if cursor is None or cancelled == most:
            return cancelled


async def _cancel(context: Context, ids: Sequence[str]) -> int:
    """How many of them had not ended."""
    await context.broker()
    effects = await context.client.cancel_many(ids) if ids else []
    return sum(effect is not CancelEffect.FINISHED for effect in effects)


def _recent(found: RequestRecord, now: datetime) -> bool:
    """It has not ended, or not long ago."""
    record = found.record
    return record is not None and (
        record.ended_at is None or not record.status.final or now - record.ended_at <= SHOWN_FOR
    )


def _unknown(message_id: str) -> NotFound:
    return NotFound(f"message {message_id[:80]} not found")
