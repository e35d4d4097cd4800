"""Hostile input: what anybody who may publish to the broker could send to a worker or to the keeper.

Each `Hostile` is a delivery as its sender would have it. Most are nearly right: the encoding of a real message, cut,
flipped, or with a field that holds something else.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
from hypothesis import strategies as st

from taskq import dead_letter
from taskq.message import CONTENT_TYPE, JSON_CONTENT_TYPE, Message
from taskq.outcome import Failure
from taskq.serialization import JSON, MSGPACK

TARGETS = ("default", "waiting", "dead")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK = "add"

numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1]),
    st.floats(),
)
texts = st.one_of(
    st.text(st.characters(), max_size=30),  # lone surrogates among them
    st.sampled_from(["", "\0", "a\0b", "\ud800", "é" * 255, "\U0001f600" * 255, "x" * 255, "x" * 256, "x" * 5000]),
)
extensions = st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
instants = st.just(msgpack.Timestamp(0, 0))
leaves = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=30), extensions, instants)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | numbers, inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    "v", "id", "task", "queue", "at", "body", "type", "headers", "attempt", "hop", "reply", "timeout", "not_before",
    "expires", "retry", "snoozes", "priority", "key", "dedup_id", "recorded", "repeated", "misses", "flow", "granted",
)  # fmt: skip
_counts = st.sampled_from([2**31 - 1, 2**31 - 2, 10**9, 0])
_times = st.sampled_from([0, -62135596800000, 253402300799999, 1, 1.5, 4102444800000])
_names = st.sampled_from(["x" * 200, "é" * 200, "\U0001f600" * 200, "a\0b", " ", "a/b", "*", "taskq.dead", "\n"])
EDGES: dict[str, st.SearchStrategy[Any]] = {  # what is just right, or nearly
    "attempt": _counts, "hop": _counts, "snoozes": _counts, "misses": _counts, "priority": st.sampled_from([31, 32]),
    "at": _times, "not_before": _times, "expires": _times,
    "id": _names, "task": _names, "queue": _names, "key": _names, "dedup_id": _names, "reply": _names, "type": _names,
    "timeout": st.sampled_from([5e-324, 1e-9, 1e308, float("inf"), 2**63, True]),
    "flow": st.sampled_from([["k", 1, 1, 5], ["\0", None, None, None], ["k", 2**31, 1, 1e308], ["k", 1, 2**63, 5]]),
    "headers": st.sampled_from([{"\ud800": "\0"}, {"x" * 70000: ""}, {"": "x" * 70000}]),
}  # fmt: skip
POLICY = ("max", "delay", "jitter", "most", "base")
LETTER = (
    "v", "id", "message_id", "queue", "task", "reason", "attempts", "failure", "worker", "at", "body", "type",
)  # fmt: skip
MANY = 1_000_000
DEEP = 100_000
HUGE = (
    b"\x91" * DEEP,  # lists in lists
    b"\x81\xa1a" * DEEP,
    b"\xdd" + MANY.to_bytes(4, "big") + b"\xc0" * MANY,  # a list of a million
    b"\xdd\xff\xff\xff\xff",  # said to be one of four billion
    b"\xc6\xff\xff\xff\xff",
    b"\xdb" + MANY.to_bytes(4, "big") + b"x" * MANY,
    b"\xc9\x00\x00\x00\x01\x05\x00",
    msgpack.packb([[list(range(MANY))], {}]),
    msgpack.packb([["x" * MANY, "y" * MANY], {}]),
)
HUGE_JSON = (
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"args": [' + b"1," * (MANY - 1) + b"1]}",
    b'{"args": [' + b"9" * 10_000 + b", NaN]}",
    b'{"args": [1e999, -Infinity]}',
    b'{"args": ["\\ud800", "\\u0000"]}',
    b'{"args": [1, 2], "kwargs": {"a": 1}}',
)


@dataclass(frozen=True)
class Hostile:
    """One delivery.

    to            str, one of TARGETS
    body          bytes
    content_type  str | None
    headers       the broker's own, where it has any
    """

    to: str
    body: bytes
    content_type: str | None
    headers: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Hostile({self.to!r}, {self.body[:2000]!r}, {self.content_type!r:.300}, {self.headers!r:.300})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Hypothesis would show a body of a million bytes in full."""
        printer.text(repr(self))


def real(payload: bytes = msgpack.packb([[1, 2], {}]), payload_type: str = MSGPACK) -> Message:
    """A message that is right, with an id that no other has."""
    return Message(f"msg_{uuid.uuid4().hex}", TASK, "default", payload, payload_type, datetime.now(UTC))


def letter() -> bytes:
    """The wire form of a dead letter that is right."""
    died = NOW + timedelta(milliseconds=uuid.uuid4().int % 10**9)
    return dead_letter.encode(
        dead_letter.of_message(real(), reason="failed", attempts=1, failure=Failure("A", "b"), worker="w", died_at=died)
    )


def _pack(wire: Any) -> bytes:
    return msgpack.packb(wire, unicode_errors="surrogatepass", datetime=True)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A real message, some of whose fields hold something else, or are gone."""
    wire = msgpack.unpackb(real().encode())
    for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3)):
        match draw(st.sampled_from(["edge", "edge", "value", "gone"])):
            case "edge":
                wire[name] = draw(EDGES.get(name, values))
            case "value":
                wire[name] = draw(values)
            case _:
                wire.pop(name, None)
    if draw(st.integers(0, 3)) == 0:
        policy: dict[str, Any] = {"max": 1, "delay": 0.01, "jitter": 0, "most": 1, "base": 1}
        policy[draw(st.sampled_from(POLICY))] = draw(leaves)
        wire["retry"] = policy
    return _pack(wire)


@st.composite
def changed_letters(draw: st.DrawFn) -> bytes:
    """A real dead letter, some of whose fields hold something else, or are gone."""
    wire = msgpack.unpackb(letter())
    for name in draw(st.lists(st.sampled_from(LETTER), min_size=1, max_size=3)):
        if draw(st.booleans()):
            wire[name] = draw(values)
        else:
            wire.pop(name, None)
    return _pack(wire)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real message or dead letter, cut off, flipped, or with bytes in between."""
    body = draw(st.sampled_from([lambda: real().encode(), letter]))()
    where = draw(st.integers(0, len(body) - 1))
    match draw(st.sampled_from(["cut", "flip", "insert", "head"])):
        case "cut":
            return body[:where]
        case "head":
            return body[where:]
        case "insert":
            return body[:where] + draw(st.binary(min_size=1, max_size=8)) + body[where:]
        case _:
            return body[:where] + bytes([body[where] ^ draw(st.integers(1, 255))]) + body[where + 1 :]


@st.composite
def arguments(draw: st.DrawFn) -> bytes:
    """A message that is right but for its arguments."""
    payload = draw(st.one_of(st.binary(max_size=60), values.map(_pack), st.sampled_from(HUGE + HUGE_JSON)))
    return real(payload, draw(st.sampled_from([MSGPACK, JSON, "application/x-pickle", "x" * 200]))).encode()


@st.composite
def json_messages(draw: st.DrawFn) -> bytes:
    """JSON of ours, nearly."""
    wire: dict[str, Any] = {"id": f"msg_{uuid.uuid4().hex}", "task": TASK, "queue": "default", "args": [1, 2]}
    plain = st.one_of(st.none(), st.booleans(), numbers, texts, st.lists(texts, max_size=2), st.integers(0, 10**400))
    for name in draw(st.lists(st.sampled_from([*FIELDS, "args", "kwargs"]), max_size=3)):
        wire[name] = draw(plain)
    return json.dumps(wire).encode()


@st.composite
def deliveries(draw: st.DrawFn, *, bare: bool) -> Hostile:
    """Anything; `bare`: without what the broker in memory has not got (headers, a delivery without a type)."""
    to = draw(st.sampled_from(TARGETS))
    kinds: list[tuple[st.SearchStrategy[bytes], str]] = [
        (st.binary(max_size=200), CONTENT_TYPE),
        (values.map(_pack), CONTENT_TYPE),
        (changed(), CONTENT_TYPE),
        (changed(), CONTENT_TYPE),
        (damaged(), CONTENT_TYPE),
        (arguments(), CONTENT_TYPE),
        (json_messages(), JSON_CONTENT_TYPE),
        (st.sampled_from(HUGE), CONTENT_TYPE),
        (st.sampled_from(HUGE_JSON), JSON_CONTENT_TYPE),
    ]
    if to == "dead":
        kinds += [(changed_letters(), dead_letter.CONTENT_TYPE)] * 3
    strategy, content_type = draw(st.sampled_from(kinds))
    types = [content_type] * 6 + [CONTENT_TYPE, JSON_CONTENT_TYPE, dead_letter.CONTENT_TYPE, "text/plain", "", "é" * 60]
    chosen = draw(st.sampled_from(types if bare else [*types, None]))
    return Hostile(to, draw(strategy), chosen, {} if bare else draw(_headers))


_plain_values = st.one_of(st.booleans(), st.integers(-(2**31), 2**31 - 1), st.text(max_size=20), st.none())
_deaths = st.lists(
    st.fixed_dictionaries({}, optional={"reason": _plain_values, "queue": _plain_values, "count": _plain_values}),
    max_size=2,
)
_headers = st.one_of(
    st.just({}),
    st.dictionaries(
        st.sampled_from(["x-death", "x-delivery-count", "x-first-death-queue", "taskq", "x" * 100]),
        st.one_of(_plain_values, _deaths),
        max_size=3,
    ),
)
