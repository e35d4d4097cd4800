"""The history of messages, of which QStash's protocol knows two spellings: /v2/logs as documented, and /v2/events,
which its clients call."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from taskq.api.answer import answer
from taskq.api.context import Context, InContext
from taskq.api.selection import FILTERS, Selection, described
from taskq.api.shapes import EventPage, LogPage, giving
from taskq.api.views import event_view
from taskq.api.wire import BAD

router = APIRouter(prefix="/v2", tags=["logs"])

MOST = 1000
DEFAULT = 100

PARAMETERS = described(FILTERS | {"state"}, "count", "cursor", "order", most=MOST)


@router.get("/logs", responses=BAD | giving(LogPage), openapi_extra=PARAMETERS)
async def list_logs(request: Request, context: InContext) -> Response:
    """List what happened to messages, the latest first."""
    return await _list(request, context, "logs", "CANCELLED")


@router.get("/events", responses=BAD | giving(EventPage), openapi_extra=PARAMETERS)
async def list_events(request: Request, context: InContext) -> Response:
    """List what happened to messages, the latest first."""
    return await _list(request, context, "events", "CANCELED")


async def _list(request: Request, context: Context, name: str, cancelled: str) -> Response:
    selection = Selection(request.query_params.multi_items())
    page = await (await context.store()).events(
        selection.requests(),
        states=selection.states(),
        oldest_first=selection.oldest_first(default=False),
        cursor=selection.cursor(),
        limit=selection.count(most=MOST, default=DEFAULT),
    )
    timeout = context.settings.delivery_timeout
    found: dict[str, Any] = {name: [event_view(one, cancelled=cancelled, timeout=timeout) for one in page.items]}
    if page.cursor is not None:
        found["cursor"] = page.cursor
    return answer(found)
