"""Publish, enqueue, batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from taskq.api.context import InContext, context_of
from taskq.api.errors import status_of, told
from taskq.api.publisher import Order, Sent
from taskq.errors import InvalidRequest, TaskqError
from taskq.http import publishing
from taskq.http.request import Headers

router = APIRouter(prefix="/v2", tags=["messages"])

BATCH_MOST = 10_000  # messages of one request


@router.post("/publish/{destination:path}")
async def publish(request: Request, destination: str, context: InContext) -> JSONResponse:
    """Send the body to a URL, to all members of a URL group, or to a Python task."""
    return await _send(request, context, 3, None)


@router.post("/enqueue/{queue}/{destination:path}")
async def enqueue(request: Request, queue: str, destination: str, context: InContext) -> JSONResponse:
    """The same, by way of a queue, which is made with parallelism 1 if there is none."""
    return await _send(request, context, 4, queue)


class Sending:
    """Innermost: publishes and enqueues without FastAPI's routing, which costs as much as accepting a message does.

    The routes above say what they are; they answer where the app is mounted under a path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _sending(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response: Response = await _send(request, await context_of(request), *found)
        except (TaskqError, HTTPException) as error:
            response = await told(request, error)
        await response(scope, receive, send)


def _sending(scope: Scope) -> tuple[int, str | None] | None:
    """Where in the path the destination begins, and the queue; None: it is another request."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
        return None
    match scope["path"].split("/", 4):
        case ["", "v2", "publish", _, *_]:
            return 3, None
        case ["", "v2", "enqueue", queue, _] if queue:
            return 4, queue
    return None


async def _send(request: Request, context: Any, place: int, queue: str | None) -> JSONResponse:
    destination, query = destination_of(request, place)
    order = Order(
        destination,
        headers_of(request),
        query,
        await request.body(),
        queue=queue,
        caller_ip=caller_of(request),
    )
    sent = await (await context.publisher()).send(order)
    return JSONResponse(shown(sent), 202 if sent.duplicate else 200)


@router.post("/batch")
async def batch(request: Request, context: InContext) -> JSONResponse:
    """Send many; each is answered for by itself, in their order."""
    items = await _items(request)
    caller_ip = caller_of(request)
    orders: list[Order | TaskqError] = [_order(item, index, caller_ip) for index, item in enumerate(items)]
    good = [order for order in orders if isinstance(order, Order)]
    sent = iter(await (await context.publisher()).send_many(good))
    results = [next(sent) if isinstance(order, Order) else order for order in orders]
    return JSONResponse([_result(one) for one in results])


async def _items(request: Request) -> Sequence[Any]:
    try:
        items = await request.json()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body of a batch is a JSON array of messages: {error}"[:200]) from error
    if not isinstance(items, list):
        raise InvalidRequest(f"the body of a batch is a JSON array of messages, got {type(items).__name__}")
    if len(items) > BATCH_MOST:
        raise InvalidRequest(f"a batch has at most {BATCH_MOST} messages, got {len(items)}: send several")
    return items


def _order(item: Any, index: int, caller_ip: str) -> Order | TaskqError:
    try:
        return _read(item, caller_ip)
    except TaskqError as error:
        return type(error)(f"message {index}: {error}") if isinstance(error, InvalidRequest) else error


def _read(item: Any, caller_ip: str) -> Order:
    if not isinstance(item, Mapping):
        raise InvalidRequest(f"a message is an object with destination, body, headers and queue, got {item!r:.80}")
    destination, body, queue = item.get("destination"), item.get("body"), item.get("queue")
    if not isinstance(destination, str):
        raise InvalidRequest(f"destination must be text, got {destination!r:.80}")
    if body is not None and not isinstance(body, str):
        raise InvalidRequest(f"body must be text, got {body!r:.80}")
    if queue is not None and not isinstance(queue, str):
        raise InvalidRequest(f"queue must be text, got {queue!r:.80}")
    try:
        data = (body or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"body is no text that UTF-8 holds: {error}"[:200]) from error
    headers = _pairs(item.get("headers") or {})
    return Order(destination, headers, (), data, queue=queue or None, caller_ip=caller_ip)


def _pairs(headers: Any) -> Headers:
    """The headers of an item: text, or a list of texts, for each name."""
    if not isinstance(headers, Mapping):
        raise InvalidRequest(f"headers must be an object, got {headers!r:.80}")
    pairs = []
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str | int | float | bool):
                raise InvalidRequest(f"header {name!r:.80} must be text, got {value!r:.80}")
            pairs.append((name, value if isinstance(value, str) else str(value)))
    return tuple(pairs)


def _result(sent: Sent | TaskqError) -> Any:
    if isinstance(sent, Sent):
        return shown(sent)
    return {"error": str(sent), "status": status_of(sent)}


def shown(sent: Sent) -> Any:
    """What QStash answers: an object for a URL, an array for a group."""
    answers = []
    for url, accepted in sent.messages:
        answer: dict[str, Any] = {"messageId": accepted.message_id}
        if sent.group:
            answer["url"] = url
        if accepted.duplicate:
            answer["deduplicated"] = True
        answers.append(answer)
    return answers if sent.group else answers[0]


# -- what a request says ---------------------------------------------------------------------


def destination_of(request: Request, place: int) -> tuple[str, Headers]:
    """The destination that follows so many parts of the path, as it was sent, with the query that belongs to it; and
    the settings that the query says."""
    root = request.scope.get("root_path", "").encode()
    raw: bytes = request.scope["raw_path"].removeprefix(root)
    destination = raw.split(b"/", place)[place].decode("latin-1")
    theirs, ours = publishing.split_query(request.scope["query_string"].decode("latin-1"))
    pairs = parse_qsl(ours, keep_blank_values=True, max_num_fields=1000)
    settings = tuple((name, value) for name, value in pairs if name.lower() != "qstash_token")
    return f"{destination}?{theirs}" if theirs else destination, settings


def headers_of(request: Request) -> Headers:
    """The headers, as latin-1 text."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)


def caller_of(request: Request) -> str:
    """The address of who calls."""
    return request.client.host if request.client is not None else ""
