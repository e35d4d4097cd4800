"""Who may call: tokens, as bearer or in the query, compared in constant time."""

from __future__ import annotations

import hmac
from urllib.parse import unquote_plus

from starlette.types import ASGIApp, Receive, Scope, Send

from taskq.api.errors import problem
from taskq.settings import Settings

OPEN = frozenset({"/health", "/ready", "/openapi.json", "/docs"})
READING = frozenset({"GET", "HEAD"})
TOKEN_IN_QUERY = "qstash_token"
CALLER = "taskq.caller"  # in the scope: which token it was


class Authentication:
    """Lets through who has a token: everything with the one, only reading with the other.

    Without a configured token everything passes. The token is taken out of the query, so that nothing behind
    this passes it on or logs it.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        tokens = {"full": settings.api_token, "reading": settings.api_readonly_token}
        self._tokens = {kind: token.get_secret_value().encode() for kind, token in tokens.items() if token is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        presented = _presented(scope)
        if self._tokens and scope["path"] not in OPEN:
            kind = self._kind(presented)
            if kind is None:
                await _refuse(presented)(scope, receive, send)
                return
            if kind == "reading" and scope["method"] not in READING:
                await problem(403, "this token may only read: use the API's full token")(scope, receive, send)
                return
            scope[CALLER] = kind
        await self._app(scope, receive, send)

    def _kind(self, presented: bytes | None) -> str | None:
        if not presented:
            return None
        found = None
        for kind, token in self._tokens.items():  # all of them, whichever fits: no shorter answer tells which
            if hmac.compare_digest(token, presented):
                found = found or kind
        return found


def _presented(scope: Scope) -> bytes | None:
    """The token of the header, else of the query, which loses it."""
    in_query = None
    kept = []
    for part in scope["query_string"].split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == TOKEN_IN_QUERY:
            in_query = unquote_plus(value.decode("latin-1")).encode()
        else:
            kept.append(part)
    if in_query is not None:
        scope["query_string"] = b"&".join(kept)
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip()
    return in_query


def _refuse(presented: bytes | None) -> ASGIApp:
    text = "unauthorized: " + (
        "send the API's token as `Authorization: Bearer TOKEN`, or as `qstash_token` in the query"
        if presented is None
        else "the token is not this API's"
    )
    return problem(401, text, {"WWW-Authenticate": "Bearer"})
