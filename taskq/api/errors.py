"""Every error as JSON `{"error": text}`, with the status that tells a caller what to do about it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskq.admin.drain import StillHeld
from taskq.admin.migrate import BrokenOff
from taskq.admin.replay import NotOurs, UnknownLetter
from taskq.errors import (
    BrokerUnavailable,
    Duplicate,
    InvalidArguments,
    InvalidQueue,
    InvalidRequest,
    InvalidSchedule,
    InvalidSetting,
    NotSerializable,
    PayloadTooLarge,
    QueueMismatch,
    StoreUnavailable,
    TaskqError,
    UnknownTask,
)
from taskq.settings import redact_url

logger = logging.getLogger("taskq.api")

RETRY_AFTER = "1"  # seconds
BAD_REQUEST = (
    InvalidRequest, InvalidSetting, InvalidQueue, InvalidSchedule, InvalidArguments, NotSerializable, UnknownTask,
)  # fmt: skip


class Problem(BaseModel):
    """Why a request was not done."""

    error: str


class NotFound(TaskqError):
    """Nothing of that name or id is there."""


class Conflict(TaskqError):
    """It cannot be done as things stand."""


class PlanLimit(TaskqError):
    """More was asked for than there may be."""


def status_of(error: TaskqError) -> int:
    """The status of an answer that tells of an error; 500 for one that no caller could cause."""
    match error:
        case NotFound() | UnknownLetter():
            return 404
        case Conflict() | Duplicate() | NotOurs() | StillHeld() | BrokenOff() | QueueMismatch():
            return 409
        case PlanLimit():
            return 412
        case PayloadTooLarge():
            return 413
        case BrokerUnavailable() | StoreUnavailable():
            return 503
    return 400 if isinstance(error, BAD_REQUEST) else 500


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that tells of an error."""
    # Text of a caller may hold what UTF-8 cannot.
    shown = text.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": shown}, status, headers=dict(headers or {}))


def install(api: FastAPI) -> None:
    """Have the app answer its errors so."""
    api.add_exception_handler(TaskqError, _of_ours)
    api.add_exception_handler(HTTPException, _of_http)
    api.add_exception_handler(RequestValidationError, _of_validation)


async def told(request: Request, error: TaskqError | HTTPException) -> Response:
    """The answer that tells of an error, for who is not behind the app's handlers."""
    return await (_of_ours if isinstance(error, TaskqError) else _of_http)(request, error)


async def _of_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, TaskqError)
    status = status_of(error)
    if status == 500:
        _log(request.scope, error)
        return problem(500, _unknown())
    return problem(status, redact_url(str(error)), {"Retry-After": RETRY_AFTER} if status == 503 else None)


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return problem(404, f"nothing is at {request.url.path[:80]!r}")
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        text = f"method {request.method[:20]} is not allowed here; allowed: {allowed}"
        return problem(405, text, headers | {"Allow": allowed})
    return problem(error.status_code, str(error.detail), headers)


def _methods(request: Request) -> set[str]:
    """All methods that the path knows, of whichever route."""
    methods: set[str] = set()
    for router in request.app.state.routers:
        for route in router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                methods |= route.methods
    return methods or {"GET"}


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(400, "; ".join(_complaint(one) for one in error.errors()[:5]) or "the request is malformed")


def _complaint(found: Mapping[str, object]) -> str:
    """Which field is wrong, its value, and what was expected."""
    place, *rest = found["loc"] if isinstance(found["loc"], tuple | list) else (found["loc"],)
    if found["type"] == "json_invalid":
        return f"the body is not JSON (at character {rest[0] if rest else 0})"
    name = ".".join(map(str, rest)) or str(place)
    if found["type"] == "missing":
        return f"{name} is missing" if rest else "a JSON body is missing"
    if place == "body" and not rest:
        return "the body must be a JSON object, sent with Content-Type: application/json"
    given = f", got {found.get('input')!r:.80}"
    return f"{name}: {str(found['msg']).removeprefix('Value error, ')}{given}"


class Boundary:
    """Outermost: an error that nobody foresaw is logged, and answered with 500; the server goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            _log(scope, error)
            if begun:
                raise
            await problem(500, _unknown())(scope, receive, send)


def _unknown() -> str:
    return "something went wrong here: the server's log says what"


def _log(scope: Scope, error: Exception) -> None:
    """Where it happened, without values: of what was asked only the route is said."""
    route = getattr(scope.get("route"), "path", "no route")
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error(
        "%s %s: %s: %s\n%s", scope["method"], route, type(error).__name__, redact_url(str(error))[:400], frames
    )
