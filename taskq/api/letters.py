"""Dead letters of any kind, of Python tasks too: show, send again (with other arguments), delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from taskq.admin import shown
from taskq.admin.replay import Replay, Revived, pages, resolve
from taskq.api.answer import answer
from taskq.api.context import Context, InContext
from taskq.api.errors import NotFound
from taskq.api.views import dead_view
from taskq.api.wire import BAD, CONFLICT, MISSING, Instant, Listing, Text
from taskq.app import TaskQ
from taskq.errors import InvalidRequest
from taskq.http.request import HTTP_TASK, request_of
from taskq.message import Message
from taskq.serialization import MSGPACK, encode_arguments
from taskq.store.base import DeadFilter, DeadLetter

router = APIRouter(prefix="/admin/dlq", tags=["admin"])

MOST = 10_000  # letters that one call sends again or deletes

Id = Annotated[str, Path(description="The dead letter's id, or that of its message.", max_length=300)]


class Chosen(BaseModel):
    """Which dead letters: all given conditions hold. Instants: when they died. `text`: in reason or error."""

    queue: Text = None
    task: Text = None
    reason: Text = None
    message_id: Text = None
    text: Text = None
    since: Instant = None
    until: Instant = None

    def filter(self) -> DeadFilter:
        """As the store takes it."""
        return DeadFilter(**{name: getattr(self, name) for name in Chosen.model_fields})


class Letters(Chosen, Listing):
    """A page of them."""


class Bulk(Chosen):
    """Those that are meant: by id, by the other conditions, or with `all` every one."""

    ids: list[str] = []
    all: bool = False

    def check(self) -> None:
        """Nothing is done to all unless that is said, and no choice is silently passed over.

        Raises:
            InvalidRequest: no choice, or two.
        """
        given = any(getattr(self, name) is not None for name in Chosen.model_fields)
        ways = sum((bool(self.ids), given, self.all))
        if ways == 0:
            raise InvalidRequest("say which: ids, filters such as queue, or all=true for every dead letter")
        if ways > 1:
            raise InvalidRequest("give either ids, or filters, or all=true")


class Edited(BaseModel):
    """Arguments instead of those that the message has; one of the two alone leaves no other."""

    model_config = ConfigDict(extra="forbid")

    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None


@router.get("", responses=BAD)
async def list_letters(which: Annotated[Letters, Query()], context: InContext) -> Response:
    """List dead letters, newest first; `total`: how many fit."""
    store, chosen = await context.store(), which.filter()
    page = await store.dead(chosen, cursor=which.cursor, limit=which.limit)
    items = [shown.letter(letter) for letter in page.items]
    return answer(shown.whole({"items": items, "cursor": page.cursor, "total": await store.count_dead(chosen)}))


@router.delete("", responses=BAD | MISSING)
async def delete_letters(which: Annotated[Bulk, Query()], context: InContext) -> Response:
    """Delete the dead letters that are chosen."""
    which.check()
    store = await context.store()
    chosen = DeadFilter(ids=await resolve(store, which.ids)) if which.ids else which.filter()
    deleted = 0
    while batch := await store.delete_dead(chosen):
        deleted += batch
    return answer({"deleted": deleted})


@router.post("/retry", status_code=201, responses=BAD | MISSING | CONFLICT)
async def retry_letters(which: Annotated[Bulk, Query()], context: InContext) -> Response:
    """Send the dead letters that are chosen again, the oldest first, each as a new message with all its retries.

    At most 10000 in one call; `left`: how many more fit.
    """
    which.check()
    store = await context.store()
    if which.ids:
        ids, left = await resolve(store, which.ids), 0
    else:
        ids = await _retryable(context, which.filter())
        ids, left = ids[:MOST], max(0, len(ids) - MOST)
    return answer({"retried": [_revived(one) for one in await _revive(context, ids)], "left": left}, 201)


@router.get("/{letter_id}", responses=MISSING)
async def get_letter(letter_id: Id, context: InContext) -> Response:
    """Show a dead letter: why it failed, its traceback, its arguments, or the request that it is."""
    letter = await _letter(context, letter_id)
    return answer(shown.whole(shown.letter_in_full(letter) | {"request": dead_view(letter)}))


@router.post("/{letter_id}/retry", status_code=201, responses=BAD | MISSING | CONFLICT)
async def retry_letter(letter_id: Id, context: InContext, edited: Edited | None = None) -> Response:
    """Send a dead letter again, as a new message with all its retries, with other arguments if some are given."""
    letter = await _letter(context, letter_id)
    change = None if edited is None else _change(context.app, edited)
    revived = await _revive(context, [letter.id], change)
    if not revived:
        raise _unknown(letter_id)
    return answer(_revived(revived[0]), 201)


@router.delete("/{letter_id}", responses=MISSING)
async def delete_letter(letter_id: Id, context: InContext) -> Response:
    """Delete a dead letter."""
    letter = await _letter(context, letter_id)
    deleted = await (await context.store()).delete_dead(DeadFilter(ids=[letter.id]))
    if not deleted:
        raise _unknown(letter_id)
    return answer({"deleted": deleted})


async def _letter(context: Context, letter_id: str) -> DeadLetter:
    """The letter; of a message's several the latest."""
    store = await context.store()
    for which in (DeadFilter(ids=[letter_id]), DeadFilter(message_id=letter_id)):
        found = (await store.dead(which, limit=1)).items
        if found:
            letter: DeadLetter = found[0]
            return letter
    raise _unknown(letter_id)


async def _retryable(context: Context, which: DeadFilter) -> list[str]:
    """Ids of those that are messages of ours, the oldest first."""
    ids: list[str] = []
    async for page in pages(await context.store(), which):
        ids += [letter.id for letter in page if letter.message is not None]
    return ids[::-1]


async def _revive(
    context: Context, ids: list[str], change: Callable[[Message], Message] | None = None
) -> list[Revived]:
    replay = Replay(
        broker=await context.broker(),
        store=await context.store(),
        dispatcher=await context.dispatcher(),
        clock=context.clock,
    )
    return [one async for batch in replay.revive(ids, change) for one in batch]


def _change(app: TaskQ, edited: Edited) -> Callable[[Message], Message]:
    """Gives a message other arguments, which must fit its task where this app knows it."""
    args, kwargs = tuple(edited.args or ()), dict(edited.kwargs or {})

    def change(message: Message) -> Message:
        if message.task == HTTP_TASK:
            raise InvalidRequest("args, kwargs: a message for a URL has none; POST /v2/dlq/retry takes other headers")
        task = app.tasks.get(message.task)
        positional, named = task.validate(args, kwargs) if task is not None else (args, kwargs)
        request = request_of(message)
        if request is None:
            payload = encode_arguments(positional, named)
            app.check_payload(message.task, payload)
            return replace(message, payload=payload, payload_type=MSGPACK)
        if args and kwargs:
            raise InvalidRequest("args, kwargs: the body of a request holds one of them: name all arguments in kwargs")
        body = json.dumps(kwargs or list(args)).encode()
        app.check_payload(message.task, body)
        return replace(message, payload=replace(request, body=body).encode())

    return change


def _revived(one: Revived) -> dict[str, Any]:
    return {
        "letter_id": one.letter_id,
        "message_id": one.message_id,
        "queue": one.queue,
        "published": one.published,
    }


def _unknown(letter_id: str) -> NotFound:
    return NotFound(f"no dead letter {letter_id[:80]!r}")
