"""The envelope: one frozen value that travels from the sender to the worker.

It knows nobody: no broker, no store, no app. On the wire it is a map, in msgpack
(`application/x-taskq`) or in JSON (`application/json`, for producers in other languages);
fields at their defaults are left out.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgpack

from taskq.clock import from_ms, to_ms
from taskq.errors import InvalidMessage
from taskq.flow import Flow
from taskq.queue import MAX_PRIORITY
from taskq.retry import Retry

WIRE_VERSION = 1
CONTENT_TYPE = "application/x-taskq"
JSON_CONTENT_TYPE = "application/json"
MAX_ID_CHARS = 200
_NO_HEADERS: Mapping[str, str] = {}


def new_id(now: datetime, *, random: bytes | None = None) -> str:
    """A new message id: `msg_`, the milliseconds of `now`, 80 random bits; sorts by time.

    Args:
        now: aware UTC.
        random: ten bytes to use instead of the system's randomness.
    """
    return f"msg_{to_ms(now):012x}{(random or os.urandom(10)).hex()}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    id             str, 1 to 200 characters; the same on every hop and attempt
    task           str, the task's name
    queue          str, the logical queue
    payload        bytes, the encoded arguments
    payload_type   str, the codec of the payload (a content type)
    created_at     datetime, UTC, when it was enqueued
    headers        dict[str, str]
    attempt        int, from 1: which attempt this copy asks for
    snoozes        int, how often a task put it off; uses no attempt
    hop            int, raised by every move through the waiting room
    not_before     datetime, UTC | None: it may not start earlier
    expires_at     datetime, UTC | None: it may not start later
    timeout        float, seconds of one attempt | None: the task's own
    priority       int, 0 to 31, larger first
    key            str | None: messages of one key keep their order (partitioned queues)
    flow           Flow | None: its key and limits of flow control
    granted        bool: its key let this copy go; it asks again when it starts
    dedup_id       str | None
    retry          Retry | None: overrides the task's own
    reply_to       str | None: the reply queue of the process that enqueued it
    recorded       bool: it has a row in the store since its enqueue, so its first start claims it
    repeated       bool: published again after an unknown confirm, so its first start claims it
    misses         int, how many workers did not know the task
    """

    id: str
    task: str
    queue: str
    payload: bytes
    payload_type: str
    created_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    snoozes: int = 0
    hop: int = 0
    not_before: datetime | None = None
    expires_at: datetime | None = None
    timeout: float | None = None
    priority: int = 0
    key: str | None = None
    flow: Flow | None = None
    granted: bool = False
    dedup_id: str | None = None
    retry: Retry | None = None
    reply_to: str | None = None
    recorded: bool = False
    repeated: bool = False
    misses: int = 0

    def encode(self, reply_to: str | None = None) -> bytes:
        """The wire form, msgpack; with that `reply_to`, if one is given, instead of its own."""
        wire: dict[str, Any] = {
            "v": WIRE_VERSION,
            "id": self.id,
            "task": self.task,
            "queue": self.queue,
            "at": to_ms(self.created_at),
            "body": self.payload,
            "type": self.payload_type,
        }
        if self.headers:
            wire["headers"] = dict(self.headers)
        if self.attempt != 1:
            wire["attempt"] = self.attempt
        if self.hop:
            wire["hop"] = self.hop
        reply_to = reply_to or self.reply_to
        if reply_to is not None:
            wire["reply"] = reply_to
        if self.timeout is not None:
            wire["timeout"] = self.timeout
        if self.not_before is not None:
            wire["not_before"] = to_ms(self.not_before)
        if self.expires_at is not None:
            wire["expires"] = to_ms(self.expires_at)
        if self.retry is not None:
            wire["retry"] = self.retry.to_wire()
        if self.flow is not None:
            wire["flow"] = self.flow.to_wire()
        for name in _PLAIN:
            value = getattr(self, name)
            if value:
                wire[name] = value
        return msgpack.packb(wire, unicode_errors="surrogatepass")  # type: ignore[no-any-return]

    def next_attempt(self, not_before: datetime) -> Message:
        """The copy that asks for one attempt more, not before that instant, one hop on."""
        return replace(self._onward(not_before), attempt=self.attempt + 1)

    def snoozed(self, not_before: datetime) -> Message:
        """The copy that asks for the same attempt again, later, one hop on."""
        return replace(self._onward(not_before), snoozes=self.snoozes + 1)

    def missed(self, not_before: datetime) -> Message:
        """The copy that looks for a worker that knows its task, one hop on."""
        return replace(self._onward(not_before), misses=self.misses + 1)

    def held(self, since: datetime) -> Message:
        """The copy that waits for its key, in the place of one that has waited since then, one hop on."""
        return self._onward(since)

    def _onward(self, not_before: datetime) -> Message:
        return replace(self, hop=self.hop + 1, not_before=not_before, repeated=False, granted=False)

    def released(self) -> Message:
        """The copy that leaves the waiting room for its queue, one hop on."""
        return replace(self, hop=self.hop + 1, not_before=None, granted=self.flow is not None)

    @property
    def waits(self) -> bool:
        """It goes to the waiting room, not to its queue."""
        return self.not_before is not None or (self.flow is not None and not self.granted)


_ALWAYS = {"v", "id", "task", "queue", "at", "body", "type"}
_PLAIN = ("snoozes", "priority", "key", "granted", "dedup_id", "recorded", "repeated", "misses")


def decode(data: bytes, content_type: str | None = CONTENT_TYPE) -> Message:
    """Read a message from its wire form.

    Args:
        data: the body of the delivery.
        content_type: `application/x-taskq` or `application/json`. A JSON message needs only `task`,
            `id` and `queue`; arguments are `args` (a list) and `kwargs` (a map).

    Raises:
        InvalidMessage: not ours, truncated, or of a codec or version that is not known.
    """
    wire = _parse(data, content_type)
    version = wire.get("v", WIRE_VERSION)
    if version != WIRE_VERSION:
        raise InvalidMessage(f"message version {version!r} is not known here (this taskq reads {WIRE_VERSION})")
    try:
        if type(wire["body"]) is not bytes:
            raise TypeError(f"body must be bytes, got {type(wire['body']).__name__}")
        message = Message(
            _text(wire, "id"),
            _text(wire, "task"),
            _text(wire, "queue"),
            wire["body"],
            _text(wire, "type"),
            from_ms(wire["at"]),
            **({"headers": _NO_HEADERS} if wire.keys() <= _ALWAYS else _at_times(wire)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, OSError, AttributeError) as error:
        raise InvalidMessage(f"not a taskq message: {type(error).__name__}: {error}") from error
    return message


def _at_times(wire: dict[str, Any]) -> dict[str, Any]:
    """The fields that most messages leave at their defaults."""
    fields = {
        "headers": wire.get("headers") or _NO_HEADERS,
        "attempt": wire.get("attempt", 1),
        "hop": wire.get("hop", 0),
        "not_before": _instant(wire.get("not_before")),
        "expires_at": _instant(wire.get("expires")),
        "timeout": wire.get("timeout"),
        "retry": Retry.from_wire(wire["retry"]) if "retry" in wire else None,
        "flow": Flow.from_wire(wire["flow"]) if "flow" in wire else None,
        "reply_to": wire.get("reply"),
        **{name: wire[name] for name in _PLAIN if name in wire},
    }
    _check(fields)
    return fields


def _parse(data: bytes, content_type: str | None) -> dict[str, Any]:
    if content_type == CONTENT_TYPE:
        try:
            wire = msgpack.unpackb(data, unicode_errors="surrogatepass")
        except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise InvalidMessage(f"not msgpack: {error}") from error
    elif content_type == JSON_CONTENT_TYPE:
        wire = _from_json(data)
    else:
        raise InvalidMessage(f"content type {content_type!r} is not known: use {CONTENT_TYPE} or {JSON_CONTENT_TYPE}")
    if not isinstance(wire, dict):
        raise InvalidMessage(f"a message is a map, got {type(wire).__name__}")
    return wire


def _from_json(data: bytes) -> dict[str, Any]:
    try:
        wire = json.loads(data)
        if not isinstance(wire, dict):
            return wire  # type: ignore[no-any-return]
        if "body" in wire:
            wire["body"] = base64.b64decode(wire["body"], validate=True)
        else:
            arguments = {"args": wire.pop("args", []), "kwargs": wire.pop("kwargs", {})}
            wire["body"] = json.dumps(arguments).encode()
            wire["type"] = JSON_CONTENT_TYPE
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidMessage(f"not JSON of ours: {error}") from error
    wire.setdefault("at", 0)
    return wire


def _text(wire: Mapping[str, Any], name: str) -> str:
    value = wire[name]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be text, got {value!r:.80}")
    if len(value) > MAX_ID_CHARS:
        raise ValueError(f"{name} has {len(value)} characters, {MAX_ID_CHARS} are allowed")
    if not value.isascii():
        value.encode()  # a lone surrogate has no place in the broker's properties
    return value


def _instant(value: int | None) -> datetime | None:
    return None if value is None else from_ms(value)


def _check(fields: Mapping[str, Any]) -> None:
    for name in ("key", "dedup_id", "reply_to"):
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be text, got {value!r:.80}")
        if value is not None and len(value) > MAX_ID_CHARS:
            raise ValueError(f"{name} has {len(value)} characters, {MAX_ID_CHARS} are allowed")
    for name in ("attempt", "hop", "snoozes", "misses", "priority"):
        value = fields.get(name, 0)
        if type(value) is not int or not 0 <= value < 2**31:
            raise TypeError(f"{name} must be a count, got {value!r:.80}")
    if fields.get("priority", 0) > MAX_PRIORITY:
        raise ValueError(f"priority must be 0 to {MAX_PRIORITY}, got {fields['priority']}")
    for name in ("granted", "recorded", "repeated"):
        if type(fields.get(name, False)) is not bool:
            raise TypeError(f"{name} must be true or false, got {fields[name]!r:.80}")
    timeout = fields["timeout"]
    if timeout is not None and not (isinstance(timeout, int | float) and float(timeout) > 0):
        raise TypeError(f"timeout must be seconds above 0, got {timeout!r:.80}")
    if isinstance(timeout, int) and timeout >= 2**63:
        raise ValueError("timeout is a whole number that msgpack does not hold")
    headers = fields["headers"]
    if headers is not _NO_HEADERS and not (
        isinstance(headers, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in headers.items())
    ):
        raise TypeError("headers must map text to text")
