"""Dead letters on the wire: what failed for good, why, and the message as it came.

Workers write them to the dead-letter exchange; the keeper reads them into the archive. What the
broker itself dead-lettered arrives bare, and is read by its `x-death` header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgpack

from taskq.clock import from_ms, to_ms
from taskq.errors import InvalidMessage
from taskq.message import Message, decode
from taskq.outcome import Failure
from taskq.store.base import DeadLetter

CONTENT_TYPE = "application/x-taskq-dead"
MAX_RESPONSE_BYTES = 2**24
MAX_CHARS = 300  # of each text of a letter but its failure's; what is indexed must be short


def letter_id(message_id: str, hop: int, died_at: datetime, body: bytes) -> str:
    """The id of an archive entry: `<ms>-<hash>`; the same death gives the same id, however often it is told."""
    seed = f"{message_id}/{hop}/{to_ms(died_at)}".encode() if message_id else body
    return f"{to_ms(died_at)}-{hashlib.blake2b(seed, digest_size=6).hexdigest()}"


def of_message(
    message: Message, *, reason: str, attempts: int, failure: Failure | None, worker: str, died_at: datetime,
    response: bytes | None = None,
) -> DeadLetter:  # fmt: skip
    """The dead letter of a message of ours; `response`: a request's last answer, as it is kept."""
    body = message.encode()
    return DeadLetter(
        id=letter_id(message.id, message.hop, died_at, body),
        message_id=message.id,
        queue=message.queue,
        task=message.task,
        reason=reason,
        attempts=attempts,
        failure=failure,
        worker=worker,
        died_at=died_at,
        body=body,
        content_type="application/x-taskq",
        message=message,
        response=response,
    )


def of_bytes(
    body: bytes, content_type: str | None, *, queue: str, reason: str, failure: Failure | None, worker: str | None,
    died_at: datetime, message_id: str = "",
) -> DeadLetter:  # fmt: skip
    """The dead letter of bytes that are no message of ours."""
    return DeadLetter(
        id=letter_id("", 0, died_at, body),
        message_id=message_id,
        queue=queue,
        task="",
        reason=reason,
        attempts=0,
        failure=failure,
        worker=worker,
        died_at=died_at,
        body=body,
        content_type=content_type,
    )


def encode(letter: DeadLetter) -> bytes:
    """The wire form."""
    failure = letter.failure
    return msgpack.packb(  # type: ignore[no-any-return]
        {
            "v": 1,
            "id": letter.id,
            "message_id": letter.message_id,
            "queue": letter.queue,
            "task": letter.task,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "failure": [failure.type, failure.message, failure.traceback] if failure else None,
            "worker": letter.worker,
            "at": to_ms(letter.died_at),
            "body": letter.body,
            "type": letter.content_type,
            "response": letter.response,
        },
        unicode_errors="surrogatepass",
    )


def read(
    body: bytes, content_type: str | None, headers: Mapping[str, Any], *, message_id: str | None, now: datetime
) -> DeadLetter:
    """The dead letter of a delivery from the dead-letter queue, whoever sent it."""
    if content_type == CONTENT_TYPE:
        try:
            return _decode(body)
        except (
            ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
            msgpack.exceptions.UnpackException, OSError,
        ) as error:  # fmt: skip
            failure = Failure(type(error).__name__, str(error)[:400])
            return of_bytes(
                body, content_type, queue="", reason="invalid-message", failure=failure, worker=None, died_at=now
            )
    reason, queue = _death(headers)
    try:
        message = decode(body, content_type)
    except InvalidMessage as error:
        failure = Failure("InvalidMessage", str(error)[:400])
        return of_bytes(
            body, content_type, queue=queue, reason=reason, failure=failure, worker=None, died_at=now,
            message_id=message_id or "",
        )  # fmt: skip
    return of_message(message, reason=reason, attempts=message.attempt, failure=None, worker="", died_at=now)


def _decode(body: bytes) -> DeadLetter:
    wire = msgpack.unpackb(body, unicode_errors="surrogatepass")
    _check(wire)
    try:
        message = decode(wire["body"], wire["type"])
    except InvalidMessage:
        message = None
    return DeadLetter(
        id=wire["id"],
        message_id=wire["message_id"],
        queue=wire["queue"],
        task=wire["task"],
        reason=wire["reason"],
        attempts=wire["attempts"],
        failure=None if wire["failure"] is None else Failure(*wire["failure"]),
        worker=wire["worker"],
        died_at=from_ms(wire["at"]),
        body=wire["body"],
        content_type=wire["type"],
        message=message,
        response=wire.get("response"),
    )


def _check(wire: Mapping[str, Any]) -> None:
    """That the archive can hold it: one letter that it cannot would keep out all others."""
    for name in ("id", "message_id", "queue", "task", "reason", "worker", "type"):
        value = wire[name]
        if not (isinstance(value, str) and len(value) <= MAX_CHARS or value is None and name in ("worker", "type")):
            raise TypeError(f"{name} must be text of at most {MAX_CHARS} characters, got {value!r:.80}")
    if not wire["id"] or not wire["reason"]:
        raise ValueError("a dead letter has an id and a reason")
    if type(wire["attempts"]) is not int or not 0 <= wire["attempts"] < 2**31:
        raise TypeError(f"attempts must be a count, got {wire['attempts']!r:.80}")
    if type(wire["body"]) is not bytes:
        raise TypeError(f"body must be bytes, got {type(wire['body']).__name__}")
    response = wire.get("response")  # older letters have none
    if not (response is None or (type(response) is bytes and len(response) <= MAX_RESPONSE_BYTES)):
        raise TypeError(f"response must be at most {MAX_RESPONSE_BYTES} bytes, got {response!r:.80}")
    failure = wire["failure"]
    if failure is not None and not (
        isinstance(failure, list) and len(failure) == 3 and all(isinstance(part, str) for part in failure)
    ):
        raise TypeError(f"a failure is a type, a message and a traceback, got {failure!r:.80}")


def _death(headers: Mapping[str, Any]) -> tuple[str, str]:
    """Why and where from the broker dead-lettered it."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        reason, queue = f"broker-{deaths[0].get('reason', 'unknown')}", str(deaths[0].get("queue", ""))
    else:
        reason, queue = "broker", str(headers.get("x-first-death-queue", ""))
    return reason[:MAX_CHARS], queue[:MAX_CHARS]
