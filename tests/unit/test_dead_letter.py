"""Dead letters on the wire."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest

from taskq import dead_letter
from taskq.message import Message
from taskq.outcome import Failure

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def message(**values: object) -> Message:
    given = {
        "id": "msg_1",
        "task": "t",
        "queue": "q",
        "payload": b"\x92\x90\x80",
        "payload_type": "application/msgpack",
    }
    return Message(**{**given, "created_at": NOW, **values})  # type: ignore[arg-type]


def test_a_letter_comes_back_as_it_was() -> None:
    """What a worker writes, the keeper reads, field by field."""
    letter = dead_letter.of_message(
        message(), reason="failed", attempts=4, failure=Failure("ValueError", "no", "tb"), worker="w1", died_at=NOW
    )
    for one in (letter, replace(letter, response=b"response")):
        body = dead_letter.encode(one)
        assert dead_letter.read(body, dead_letter.CONTENT_TYPE, {}, message_id="msg_1", now=NOW) == one


def test_a_letter_of_before_there_were_responses() -> None:
    """A worker of an older version does not write the field."""
    letter = dead_letter.of_message(message(), reason="failed", attempts=4, failure=None, worker="w1", died_at=NOW)
    wire = msgpack.unpackb(dead_letter.encode(letter))
    del wire["response"]
    body = msgpack.packb(wire)
    assert dead_letter.read(body, dead_letter.CONTENT_TYPE, {}, message_id="msg_1", now=NOW) == letter


def test_the_same_death_has_the_same_id() -> None:
    """A death that is told twice is one entry; another hop of the message is another death."""
    ids = [
        dead_letter.of_message(m, reason="failed", attempts=1, failure=None, worker="w", died_at=NOW).id
        for m in (message(), message(), message(hop=2))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_what_the_broker_buried_names_the_reason_and_the_queue() -> None:
    """A message that the broker dead-lettered is read by its x-death header."""
    headers = {"x-death": [{"reason": "delivery_limit", "queue": "taskq.q.mail"}]}
    letter = dead_letter.read(message().encode(), "application/x-taskq", headers, message_id="msg_1", now=NOW)
    assert (letter.reason, letter.message_id, letter.task) == ("broker-delivery_limit", "msg_1", "t")


def test_bytes_that_are_nothing_are_kept_as_they_are() -> None:
    """Rubbish in the dead-letter queue is archived with its bytes, whatever type it claims."""
    for content_type in ("application/x-taskq", dead_letter.CONTENT_TYPE, "text/plain", None):
        letter = dead_letter.read(b"\xff\x00rubbish", content_type, {}, message_id=None, now=NOW)
        assert letter.body == b"\xff\x00rubbish"
        assert letter.message is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", ["a"]),
        ("id", ""),
        ("id", "x" * 3000),
        ("message_id", None),
        ("queue", 5),
        ("task", b"t"),
        ("reason", ""),
        ("worker", {}),
        ("attempts", 2**31),
        ("attempts", True),
        ("failure", ["one"]),
        ("failure", "abc"),
        ("at", 2**70 // 2**7),
        ("at", float("nan")),
        ("body", "text"),
        ("type", 1),
        ("response", "text"),
        ("response", b"x" * (dead_letter.MAX_RESPONSE_BYTES + 1)),
    ],
)
def test_a_letter_that_the_archive_cannot_hold_is_kept_as_bytes(name: str, value: Any) -> None:
    """It says what is wrong with it, and holds up nobody."""
    letter = dead_letter.of_message(
        message(), reason="failed", attempts=4, failure=Failure("ValueError", "no", "tb"), worker="w1", died_at=NOW
    )
    body = msgpack.packb(msgpack.unpackb(dead_letter.encode(letter)) | {name: value})
    kept = dead_letter.read(body, dead_letter.CONTENT_TYPE, {}, message_id="msg_1", now=NOW)
    assert (kept.body, kept.reason, kept.died_at) == (body, "invalid-message", NOW)
    assert kept.failure is not None and kept.failure.message


def test_what_the_broker_says_of_a_death_is_cut() -> None:
    """Headers are anybody's; what is indexed in the archive must be short."""
    headers = {"x-death": [{"reason": "r" * 9000, "queue": "q" * 9000}]}
    letter = dead_letter.read(b"?", None, headers, message_id=None, now=NOW)
    assert max(len(letter.reason), len(letter.queue)) <= 300
