"""The OpenAPI document: what the routes say of themselves, and what they share or cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from taskq.api.auth import OPEN, TOKEN_IN_QUERY

Document = dict[str, Any]

ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "The setting api_token, or to read api_readonly_token.",
    },
    "tokenInQuery": {"type": "apiKey", "in": "query", "name": TOKEN_IN_QUERY, "description": "The same."},
}
SHARED = {
    "400": "A value that cannot be; the text names it",
    "401": "No token, or one that is not this API's",
    "403": "The token may only read",
    "413": "The body is too large",
    "429": "Too many requests in this second",
    "503": "The broker or the store does not answer: nothing was done, or it is not known; try again",
}
READING = frozenset({"get", "head"})
SENDING = ("/v2/publish/", "/v2/enqueue/", "/v2/schedules/{destination}")
SETTINGS = {
    "Upstash-Method": "GET, POST (default), PUT, PATCH or DELETE",
    "Upstash-Timeout": "How long one attempt may take: 30s, 5m",
    "Upstash-Retries": "Attempts after the first; 3 by default",
    "Upstash-Retry-Delay": "Milliseconds before a retry, as an expression: 1000 * (1 + retried)",
    "Upstash-Delay": "How long to wait before the first attempt: 50s, 1d10h30m",
    "Upstash-Not-Before": "When the first attempt may be, in seconds since the epoch",
    "Upstash-Label": "Labels, with commas",
    "Upstash-Deduplication-Id": "Of messages with the same id within ten minutes only the first is kept",
    "Upstash-Content-Based-Deduplication": "true: the same, by destination, body and forwarded headers",
    "Upstash-Flow-Control-Key": "Messages that share a key share its limits",
    "Upstash-Flow-Control-Value": "The limits: parallelism=5, rate=10, period=1m",
    "Upstash-Callback": "URL that hears of every attempt",
    "Upstash-Failure-Callback": "URL that hears when it has failed for good",
    "Upstash-Redact-Fields": "What is not to be shown: body, headers, header[Name]",
}
SCHEDULE = {
    "Upstash-Cron": "When, in five fields: */5 * * * *; with CRON_TZ=Europe/Paris before them in that zone",
    "Upstash-Schedule-Id": "The schedule's id; one that exists is replaced",
    "Upstash-Queue-Name": "The queue that its messages go by",
}


def install(api: FastAPI) -> None:
    """Have the app tell this document."""
    made: Document = {}

    def document() -> Document:
        if not made:
            made.update(_document(api))
        return made

    api.openapi = document  # type: ignore[method-assign]


def _document(api: FastAPI) -> Document:
    found = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    components = found.setdefault("components", {})
    components["securitySchemes"] = SECURITY
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    for path, method, operation in _operations(found):
        _share(path, method, operation)
        if path.startswith(SENDING) and method == "post":
            _send(path, operation)
    return found


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _share(path: str, method: str, operation: Document) -> None:
    """What holds for every route: the token, and how errors look."""
    responses = operation["responses"]
    responses.pop("422", None)
    if path in OPEN:
        return
    operation["security"] = [{name: []} for name in SECURITY]
    for status, description in SHARED.items():
        if status == "403" and method in READING:
            continue
        responses.setdefault(status, {"description": description, "content": ERROR})


def _send(path: str, operation: Document) -> None:
    """A route that takes its destination as it stands in the path, and any body."""
    headers = SETTINGS | (SCHEDULE if path.startswith("/v2/schedules/") else {})
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        if parameter["name"] == "destination":
            parameter["description"] = (
                "A URL as it is, its query included (https://example.com/hook?a=b), the name of a URL group, or "
                "task://NAME"
            )
    parameters += [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    ]
    operation["requestBody"] = {
        "description": "What is sent, byte for byte. Headers named Upstash-Forward-NAME are sent as NAME.",
        "content": {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}},
    }
