"""Callbacks: what came of an attempt, told to a URL by a message of its own."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from taskq.clock import to_ms
from taskq.http.publishing import DEFAULT_RETRIES, compose
from taskq.http.reading import CALLBACK_PREFIX, FAILURE_CALLBACK_PREFIX, read_callback
from taskq.http.redaction import shown
from taskq.http.request import Callback, Request, Response, grouped
from taskq.message import Message, new_id

CALLBACK_QUEUE = "callbacks"
MAX_BODY_BYTES = 4 * 2**20
_JSON = ("Content-Type", "application/json")


def callbacks_of(
    message: Message,
    request: Request,
    response: Response,
    *,
    attempt: int,
    epoch: int,
    failed: bool,
    dead_letter_id: str | None,
    now: datetime,
) -> list[Message]:
    """The messages that tell of an attempt: to the callback always, to the failure callback if it has failed for good.

    Their ids follow from the message's id, the attempt and the epoch, so that a transaction that is repeated adds none
    twice. A callback has no callbacks.

    Args:
        message: the one that was attempted; request: its payload.
        attempt: from 1.
        epoch: of the claim under which it ran.
        failed: no further attempt is made.
        dead_letter_id: where it is then.
        now: aware UTC.
    """
    if request.callback_of is not None:
        return []
    found = []
    seed = f"{message.id}/{attempt}/{epoch}"
    if request.callback is not None:
        body = body_of(message, request, response, attempt=attempt)
        found.append(
            _message(message, request, request.callback, CALLBACK_PREFIX, body, seed=f"{seed}/callback", now=now)
        )
    if request.failure_callback is not None and failed:
        body = body_of(message, request, response, attempt=attempt, dead_letter_id=dead_letter_id)
        found.append(
            _message(
                message,
                request,
                request.failure_callback,
                FAILURE_CALLBACK_PREFIX,
                body,
                seed=f"{seed}/failure",
                now=now,
            )
        )
    return found


def _message(
    source: Message, request: Request, callback: Callback, prefix: str, body: bytes, *, seed: str, now: datetime
) -> Message:
    publishing = read_callback(callback.headers, prefix)
    headers = publishing.headers
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers = (_JSON, *headers)
    retries = DEFAULT_RETRIES if source.retry is None else source.retry.max_retries
    hidden = ("body",) if "body" in request.redact else ()
    return compose(
        replace(
            publishing,
            headers=headers,
            retries=retries if publishing.retries is None else publishing.retries,
            # Its body has that of its source.
            redact=tuple(dict.fromkeys((*hidden, *publishing.redact))),
        ),
        callback.url,
        body,
        now=now,
        queue=CALLBACK_QUEUE,
        message_id=new_id(source.created_at, random=hashlib.sha256(seed.encode()).digest()[:10]),
        caller_ip=request.caller_ip,
        callback_of=source.id,
    )


def body_of(
    message: Message, request: Request, response: Response, *, attempt: int, dead_letter_id: str | None = None
) -> bytes:
    """What a callback is sent: JSON, bodies in base64, instants in ms since the epoch.

    Headers that the source hides are hidden: they are of its destination alone, such as credentials. Its body is whole.

    At most 4 MiB: the answer's body is cut to what is left, and the source's own if that alone were more.
    """
    told: dict[str, Any] = {
        "status": response.status,
        "header": grouped(response.headers),
        "body": "",
        "retried": attempt - 1,
        "maxRetries": DEFAULT_RETRIES if message.retry is None else message.retry.max_retries,
        "sourceMessageId": message.id,
        "url": request.url,
        "method": request.method,
        "sourceHeader": grouped(shown(request).headers),
        "sourceBody": "",
        "notBefore": to_ms(message.created_at) if request.not_before is None else request.not_before,
        "createdAt": to_ms(message.created_at),
        "callerIP": request.caller_ip,
    }
    known = {
        "dlqId": dead_letter_id,
        "topicName": request.topic,
        "endpointName": request.endpoint,
        "scheduleId": request.schedule_id,
    }
    told |= {name: value for name, value in known.items() if value}
    room = MAX_BODY_BYTES - len(_json(told))
    told["sourceBody"] = _base64(request.body, room)
    told["body"] = _base64(response.body, room - len(told["sourceBody"]))
    return _json(told)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(data: bytes, most: int) -> str:
    """As much of the data as fits into so many characters."""
    return base64.b64encode(data[: max(0, most) // 4 * 3]).decode()
