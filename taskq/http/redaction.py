"""What of a request may be shown. Deliveries and stored rows have it whole; whoever answers a reader asks here."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from taskq.http.request import Callback, Headers, Request, canonical

_FORWARD = "forward-"


def shown(request: Request) -> Request:
    """The request with `REDACTED:<sha256 hex>` for the body and the headers that its sender wants hidden.

    A header that is hidden is so among those that its callbacks are sent with, too.
    """
    if not request.redact:
        return request
    hidden = frozenset(request.redact)
    return replace(
        request,
        body=_placeholder(request.body).encode() if "body" in hidden else request.body,
        headers=_headers(request.headers, hidden),
        callback=_callback(request.callback, hidden),
        failure_callback=_callback(request.failure_callback, hidden),
    )


def _headers(headers: Headers, hidden: frozenset[str]) -> Headers:
    return tuple((name, _value(name, value, hidden)) for name, value in headers)


def _callback(callback: Callback | None, hidden: frozenset[str]) -> Callback | None:
    if callback is None:
        return None
    return replace(callback, headers=tuple((name, _said(name, value, hidden)) for name, value in callback.headers))


def _said(name: str, value: str, hidden: frozenset[str]) -> str:
    """A setting of a callback; only headers to be sent with it can be hidden."""
    return _value(name[len(_FORWARD) :], value, hidden) if name.lower().startswith(_FORWARD) else value


def _value(name: str, value: str, hidden: frozenset[str]) -> str:
    if "headers" in hidden or f"header:{canonical(name)}" in hidden:
        return _placeholder(value.encode("latin-1"))
    return value


def _placeholder(data: bytes) -> str:
    return f"REDACTED:{hashlib.sha256(data).hexdigest()}"
