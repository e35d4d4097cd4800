"""The dead letter queue of QStash's protocol: messages that failed for good. Show, delete, or deliver them again.

Dead letters that never were requests are shown under /admin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from taskq.admin.replay import Change, Replay
from taskq.api.answer import answer
from taskq.api.context import Context, InContext
from taskq.api.errors import NotFound
from taskq.api.selection import DEAD_IDS, FILTERS, SETTINGS, STATUS, Selection, described, said
from taskq.api.shapes import DeadPage, DeadShape, Deleted, Revived, RevivedPage, giving
from taskq.api.views import dead_view
from taskq.api.wire import BAD, MISSING
from taskq.http.publishing import override, read_overrides
from taskq.message import Message
from taskq.store.base import DeadFilter, Page
from taskq.store.gateway import RequestFilter

router = APIRouter(prefix="/v2/dlq", tags=["dead letters"])

MOST = 100
BATCH = 200

Id = Annotated[str, Path(description="The dead letter's id.")]
DEAD_FILTERS = FILTERS | {DEAD_IDS, STATUS}


@router.get("", responses=BAD | giving(DeadPage), openapi_extra=described(DEAD_FILTERS, "count", "cursor", "order"))
async def list_dead(request: Request, context: InContext) -> Response:
    """List dead letters, those that died first coming first."""
    page = await _page(context, _wanted(Selection(request.query_params.multi_items())))
    views = [view for view in map(dead_view, page.items) if view is not None]
    return answer(_with_cursor({"messages": views}, page))


@router.delete(
    "",
    responses=BAD | giving(Deleted),
    openapi_extra=described(DEAD_FILTERS, "count", "cursor", "order", body=DEAD_IDS),
)
async def delete_dead_letters(request: Request, context: InContext) -> Response:
    """Delete the dead letters of these ids, or a page of those that fit the filters. Without any filter all fit."""
    selection, lists = said(request.query_params.multi_items(), await request.body())
    ids, page = await _meant(context, selection, lists)
    return answer(_with_cursor({"deleted": await _delete(context, ids)}, page))


@router.get("/{dlq_id}", responses=MISSING | giving(DeadShape))
async def get_dead(dlq_id: Id, context: InContext) -> Response:
    """Show one dead letter."""
    page = await (await context.store()).dead(_of([dlq_id]), limit=1)
    view = dead_view(page.items[0]) if page.items else None
    if view is None:
        raise _unknown(dlq_id)
    return answer(view)


@router.delete("/{dlq_id}", responses=MISSING | giving(Deleted))
async def delete_dead(dlq_id: Id, context: InContext) -> Response:
    """Delete one dead letter."""
    deleted = await _delete(context, [dlq_id])
    if not deleted:
        raise _unknown(dlq_id)
    return answer({"deleted": deleted})


@router.post("/retry/{dlq_id}", status_code=201, responses=BAD | MISSING | giving(Revived, 201))
async def retry_dead(dlq_id: Id, request: Request, context: InContext) -> Response:
    """Deliver one again, as a new message. Headers of publishing override what the dead one says."""
    revived = await _revive(context, [dlq_id], _change(request, context))
    if not revived:
        raise _unknown(dlq_id)
    return answer({"messageId": revived[0]}, 201)


@router.post(
    "/retry", status_code=201, responses=BAD | giving(RevivedPage, 201),
    openapi_extra=described(DEAD_FILTERS, "count", "cursor", "order", body=DEAD_IDS),
)  # fmt: skip
async def retry_dead_letters(request: Request, context: InContext) -> Response:
    """Deliver the dead letters of these ids again, or a page of those that fit the filters. Without any filter all
    fit. Headers of publishing override what the dead ones say."""
    selection, lists = said(request.query_params.multi_items(), await request.body())
    change = _change(request, context)
    ids, page = await _meant(context, selection, lists)
    revived = await _revive(context, ids, change)
    return answer(_with_cursor({"responses": [{"messageId": one} for one in revived]}, page), 201)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call says of letters, checked."""

    which: DeadFilter
    cursor: str | None
    limit: int
    oldest_first: bool


def _wanted(selection: Selection) -> Wanted:
    return Wanted(
        DeadFilter(ids=selection.many(DEAD_IDS) or None, request=selection.requests(), statuses=selection.statuses()),
        selection.cursor(),
        selection.count(most=MOST, default=MOST),
        selection.oldest_first(default=True),
    )


async def _page(context: Context, wanted: Wanted) -> Page:
    """The letters that fit, from the cursor on."""
    store = await context.store()
    return await store.dead(wanted.which, cursor=wanted.cursor, limit=wanted.limit, oldest_first=wanted.oldest_first)


async def _meant(
    context: Context, selection: Selection, lists: dict[str, list[str]]
) -> tuple[Sequence[str], Page | None]:
    """Ids of the letters that a bulk call means: those that it names, or else a page of those that fit."""
    wanted = _wanted(selection)
    if wanted.which.ids or lists.get(DEAD_IDS) == []:
        return wanted.which.ids or [], None
    selection.check_bulk(also=(DEAD_IDS, STATUS))
    page = await _page(context, wanted)
    return [letter.id for letter in page.items], page


async def _delete(context: Context, ids: Sequence[str]) -> int:
    store, deleted = await context.store(), 0
    for start in range(0, len(ids), BATCH):
        deleted += await store.delete_dead(_of(ids[start : start + BATCH]), limit=BATCH)
    return deleted


async def _revive(context: Context, ids: Sequence[str], change: Change) -> list[str]:
    """Ids of the new messages."""
    store = await context.store()
    known: dict[str, None] = {}
    for start in range(0, len(ids), BATCH):
        page = await store.dead(_of(ids[start : start + BATCH]), limit=BATCH)
        known |= dict.fromkeys(letter.id for letter in page.items)
    replay = Replay(
        broker=await context.broker(), store=store, dispatcher=await context.dispatcher(), clock=context.clock
    )
    revived: list[str] = []
    async for batch in replay.revive([one for one in dict.fromkeys(ids) if one in known], change):
        revived += [one.message_id for one in batch]
    return revived


def _change(request: Request, context: Context) -> Change:
    """What the call's headers, or keys of its query, change of the messages."""
    settings = [pair for pair in request.query_params.multi_items() if pair[0].lower().startswith(SETTINGS)]
    said = read_overrides(request.headers.items(), settings)

    def change(message: Message) -> Message:
        return override(message, said, now=context.clock.now())

    return change


def _of(ids: Sequence[str]) -> DeadFilter:
    """Those of the ids that are requests."""
    return DeadFilter(ids=ids, request=RequestFilter())


def _with_cursor(found: dict[str, Any], page: Page | None) -> dict[str, Any]:
    return found if page is None or page.cursor is None else found | {"cursor": page.cursor}


def _unknown(dlq_id: str) -> NotFound:
    return NotFound(f"dead letter {dlq_id[:80]} not found")
