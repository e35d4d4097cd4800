"""The envelope and its wire forms."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import pytest

from taskq.errors import InvalidMessage
from taskq.message import CONTENT_TYPE, JSON_CONTENT_TYPE, Message, decode, new_id
from taskq.retry import Retry
from taskq.serialization import decode_arguments

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
PLAIN = Message("m-1", "send", "mails", b"\x92\x90\x80", "application/msgpack", NOW)
WIRE: dict[str, Any] = msgpack.unpackb(PLAIN.encode())
FULL = Message(
    id="m-2",
    task="send",
    queue="mails",
    payload=b"\x00\xff",
    payload_type="application/msgpack",
    created_at=NOW,
    headers={"a": "b", "": "\ud800"},
    attempt=3,
    snoozes=2,
    hop=5,
    not_before=NOW + timedelta(days=365),
    expires_at=NOW + timedelta(milliseconds=1),
    timeout=2.5,
    priority=31,
    key="customer",
    dedup_id="once",
    retry=Retry(9, delay="retried * 2"),
    reply_to="amq.gen-1",
    recorded=True,
    repeated=True,
    misses=1,
)


@pytest.mark.parametrize("message", [PLAIN, FULL], ids=["plain", "full"])
def test_round_trip(message: Message) -> None:
    """Every field comes back from the wire as it was."""
    assert decode(message.encode()) == message


def test_defaults_are_left_out() -> None:
    """A plain message carries nothing that the reader knows anyway."""
    assert set(WIRE) == {"v", "id", "task", "queue", "at", "body", "type"}
    assert len(PLAIN.encode()) < 100


def test_json_needs_three_fields() -> None:
    """A sender in another language names id, task and queue, and gives its arguments as JSON."""
    data = json.dumps({"id": "j", "task": "send", "queue": "mails", "args": [1], "kwargs": {"to": "x"}}).encode()
    message = decode(data, JSON_CONTENT_TYPE)
    assert (message.id, message.task, message.queue, message.attempt) == ("j", "send", "mails", 1)
    assert decode_arguments(message.payload, message.payload_type) == ([1], {"to": "x"})
    assert decode(message.encode()) == message


def test_json_with_a_body() -> None:
    """A JSON message may carry an encoded payload, as base64."""
    data = json.dumps(WIRE | {"body": base64.b64encode(WIRE["body"]).decode()}).encode()
    assert decode(data, JSON_CONTENT_TYPE) == PLAIN


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v": 2}, "version 2 is not known"),
        ({"id": ""}, "id must be text"),
        ({"id": 5}, "id must be text, got 5"),
        ({"id": "x" * 201}, "201 characters, 200 are allowed"),
        ({"id": "\ud800"}, "surrogates not allowed"),
        ({"task": None}, "task must be text"),
        ({"body": "text"}, "body must be bytes, got str"),
        ({"at": "now"}, "not a taskq message"),
        ({"at": 2**63}, "not a taskq message"),
        ({"at": float("nan")}, "not a taskq message"),
        ({"attempt": -1}, "attempt must be a count, got -1"),
        ({"attempt": True}, "attempt must be a count, got True"),
        ({"hop": 2**31}, "hop must be a count"),
        ({"priority": 32}, "priority must be 0 to 31, got 32"),
        ({"timeout": "1"}, "timeout must be seconds"),
        ({"timeout": -1}, "timeout must be seconds above 0"),
        ({"timeout": float("nan")}, "timeout must be seconds above 0"),
        ({"headers": {"a": 1}}, "headers must map text to text"),
        ({"headers": [1]}, "headers must map text to text"),
        ({"key": 5}, "key must be text, got 5"),
        ({"reply": b"x"}, "reply_to must be text"),
        ({"retry": 5}, "not a taskq message"),
        ({"retry": {"max": -1, "delay": None, "jitter": 0, "most": 1, "base": 1}}, "max_retries must be"),
        ({"retry": {"max": 1, "delay": "1 +", "jitter": 0, "most": 1, "base": 1}}, "position 4"),
    ],
)
def test_refused(change: dict[str, Any], says: str) -> None:
    """A field that cannot be is named, in an error of one kind."""
    with pytest.raises(InvalidMessage, match=says):
        decode(msgpack.packb(WIRE | change, unicode_errors="surrogatepass"))


@pytest.mark.parametrize("field", ["id", "task", "queue", "at", "body", "type"])
def test_missing(field: str) -> None:
    """A message without one of its fields names it."""
    with pytest.raises(InvalidMessage, match=field):
        decode(msgpack.packb({name: value for name, value in WIRE.items() if name != field}))


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", CONTENT_TYPE),
        (b"\xc1", CONTENT_TYPE),
        (PLAIN.encode()[:-1], CONTENT_TYPE),
        (PLAIN.encode() + b"\x00", CONTENT_TYPE),
        (b"\x91" * 5000, CONTENT_TYPE),
        (b"\x05", CONTENT_TYPE),
        (b"{", JSON_CONTENT_TYPE),
        (b"[]", JSON_CONTENT_TYPE),
        (b"[" * 100_000, JSON_CONTENT_TYPE),
        (b"\xff", JSON_CONTENT_TYPE),
        (b'{"id": "a", "task": "b", "queue": "c", "body": "!", "type": "d"}', JSON_CONTENT_TYPE),
        (PLAIN.encode(), "application/x-python-serialize"),
        (PLAIN.encode(), None),
    ],
)
def test_not_ours(data: bytes, content_type: str | None) -> None:
    """Bytes of others, cut or nested without end, raise InvalidMessage and nothing else."""
    with pytest.raises(InvalidMessage):
        decode(data, content_type)


def test_copies() -> None:
    """Each move is a copy one hop on; the message itself never changes."""
    later = NOW + timedelta(seconds=5)
    again, snoozed, missed = FULL.next_attempt(later), FULL.snoozed(later), FULL.missed(later)
    assert (again.attempt, again.hop, again.not_before, again.repeated) == (4, 6, later, False)
    assert (snoozed.attempt, snoozed.snoozes, snoozed.hop) == (3, 3, 6)
    assert (missed.misses, missed.hop) == (2, 6)
    assert (again.released().hop, again.released().not_before) == (7, None)
    assert (FULL.attempt, FULL.hop) == (3, 5)


def test_ids() -> None:
    """Ids sort by the time of their making and do not repeat within one instant."""
    first, second = new_id(NOW), new_id(NOW + timedelta(milliseconds=1))
    assert first < second and first.startswith("msg_") and len({new_id(NOW) for _ in range(1000)}) == 1000
    assert new_id(NOW, random=bytes(10)) == new_id(NOW, random=bytes(10))


@pytest.mark.parametrize("name", ["id", "task", "queue", "key", "dedup_id", "reply_to"])
def test_names_that_no_index_holds_are_refused(name: str) -> None:
    """A message whose names are longer than any of ours is not ours, and never reaches the store."""
    wire = replace(FULL, **{name: "x" * 201}).encode()
    with pytest.raises(InvalidMessage, match="201 characters"):
        decode(wire)


@pytest.mark.parametrize(
    "field",
    [
        {"timeout": 10**30},
        {"timeout": 10**400},
        {"recorded": 10**30},
        {"repeated": []},
        {"retry": {"max": 1, "delay": None, "jitter": 0, "most": 1, "base": 10**30}},
    ],
    ids=str,
)
def test_what_json_holds_and_msgpack_does_not_is_refused(field: dict[str, Any]) -> None:
    """A message that could be read and not written again would end whoever dead-letters it."""
    wire = {"id": "a", "task": "t", "queue": "q"} | field
    with pytest.raises(InvalidMessage):
        decode(json.dumps(wire).encode(), JSON_CONTENT_TYPE)
