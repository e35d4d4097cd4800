"""What holds for every value: messages, arguments, expressions, delays and durations."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from taskq.duration import LONGEST_SECONDS, format_duration, parse_duration
from taskq.errors import InvalidMessage, InvalidSetting, NotSerializable
from taskq.expression import LONGEST_MS, MAX_CHARS, Expression
from taskq.message import CONTENT_TYPE, JSON_CONTENT_TYPE, Message, decode
from taskq.queue import lane_of
from taskq.retry import Retry
from taskq.serialization import JSON, MSGPACK, codec_for, decode_arguments, encode_arguments

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
any_text = st.text(st.characters(), max_size=40)
# Milliseconds are all that the wire keeps of an instant.
instants = st.integers(0, 32_503_680_000_000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))
counts = st.integers(0, 2**31 - 1)
seconds = st.floats(0.001, 366 * 86400.0)

policies = st.builds(
    Retry,
    max_retries=st.integers(0, 1000),
    delay=st.one_of(st.none(), st.floats(0, 86400), st.sampled_from(["1000", "pow(2, retried) * 1000", "1/retried"])),
    jitter=st.one_of(st.none(), st.floats(0, 1)),
    max_delay=st.one_of(st.none(), seconds),
    base=seconds,
)
messages = st.builds(
    Message,
    id=words,
    task=words,
    queue=words,
    payload=st.binary(max_size=100),
    payload_type=words,
    created_at=instants,
    headers=st.dictionaries(any_text, any_text, max_size=4),
    attempt=counts,
    snoozes=counts,
    hop=counts,
    not_before=st.none() | instants,
    expires_at=st.none() | instants,
    timeout=st.none() | seconds,
    priority=st.integers(0, 31),
    key=st.none() | words,
    dedup_id=st.none() | words,
    retry=st.none() | policies,
    reply_to=st.none() | texts,
    recorded=st.booleans(),
    repeated=st.booleans(),
    misses=counts,
)
zones = st.sampled_from([None, UTC, ZoneInfo("Europe/Paris"), ZoneInfo("America/St_Johns")])
hashable = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), any_text, st.binary(max_size=20),
        st.uuids(), st.dates(), st.times(), st.timedeltas(),
        st.datetimes(timezones=zones), st.decimals(allow_nan=False),
        st.complex_numbers(allow_nan=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip
values = st.recursive(
    hashable,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(hashable, inner, max_size=4), st.sets(hashable, max_size=4)
    ),
    max_leaves=10,
)


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types, all the way down; for sets and keys equality must do."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, list | tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return all(same(value, other[key]) for key, value in one.items())
    return True


@given(messages)
def test_messages_survive_the_wire(message: Message) -> None:
    """decode(encode(m)) == m."""
    assert decode(message.encode()) == message


@given(st.binary(max_size=200), st.sampled_from([CONTENT_TYPE, JSON_CONTENT_TYPE]))
def test_any_bytes_are_a_message_or_refused(data: bytes, content_type: str) -> None:
    """No bytes make `decode` raise anything but InvalidMessage."""
    try:
        assert isinstance(decode(data, content_type), Message)
    except InvalidMessage:
        pass


@given(messages, st.dictionaries(st.sampled_from(["id", "at", "hop", "retry", "timeout", "headers", "key"]), values))
def test_any_fields_are_a_message_or_refused(message: Message, changes: dict[str, Any]) -> None:
    """Whatever stands in its fields, a message is refused as InvalidMessage, or read and fit to be sent on."""
    codec = codec_for(MSGPACK)
    wire = codec.decode(message.encode()) | changes
    try:
        again = decode(codec.encode(wire))
    except InvalidMessage:
        return
    assert decode(again.encode()).id == again.id


@given(st.lists(values, max_size=4), st.dictionaries(texts, values, max_size=4))
def test_arguments_survive_the_wire(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Arguments come back equal and of the same types."""
    back_args, back_kwargs = decode_arguments(encode_arguments(args, kwargs), MSGPACK)
    assert same(back_args, args) and same(back_kwargs, kwargs)


@given(st.binary(max_size=200), st.sampled_from([MSGPACK, JSON]))
def test_any_bytes_are_arguments_or_refused(data: bytes, content_type: str) -> None:
    """No bytes make `decode_arguments` raise anything but InvalidMessage."""
    try:
        args, kwargs = decode_arguments(data, content_type)
    except InvalidMessage:
        return
    assert isinstance(args, list) and isinstance(kwargs, dict)


@given(values)
def test_json_takes_a_value_or_refuses_it(value: Any) -> None:
    """JSON encodes a value into what JSON reads, or raises NotSerializable, and nothing else."""
    codec = codec_for(JSON)
    try:
        codec.decode(codec.encode(value))
    except NotSerializable:
        pass


pieces = st.sampled_from(
    ["retried", "pow(", "exp(", "sqrt(", "min(", "max(", "round(", "(", ")", ",", "+", "-", "*", "/", "1", "9e99"]
)  # fmt: skip
near_expressions = st.lists(pieces, max_size=60).map("".join)


@given(st.one_of(near_expressions, any_text, st.text("-(9*/ed", max_size=MAX_CHARS)), st.integers(0, 10**400))
@settings(max_examples=300)
def test_expressions_are_quick_and_bounded(text: str, retried: int) -> None:
    """Any text is an expression within bounds, or refused as InvalidSetting, in no time."""
    begun = time.thread_time()  # what a machine that stands still, or has other things to do, does not add to
    try:
        delay = Expression.parse(text).evaluate(retried)
    except InvalidSetting:
        delay = 0.0
    assert 0 <= delay <= LONGEST_MS
    assert time.thread_time() - begun < 0.25


@given(policies, st.integers(0, 10**6), st.integers())
def test_backoff_stays_in_bounds(policy: Retry, retried: int, seed: int) -> None:
    """No delay is negative, longer than `max_delay`, or cut by more than the jitter's share."""
    most = policy.delay_after(retried, rng=_Never())
    delay = policy.delay_after(retried, rng=Random(seed))
    assert policy.max_delay is not None and policy.jitter is not None
    assert most * (1 - policy.jitter) <= delay <= most <= policy.max_delay


class _Never(Random):
    def random(self) -> float:
        return 0.0


@given(st.integers(0, int(LONGEST_SECONDS)))
def test_durations_survive_their_text(whole: int) -> None:
    """parse(format(s)) == s for whole seconds."""
    assert parse_duration(format_duration(whole)) == whole


@given(st.floats(0, LONGEST_SECONDS))
def test_durations_never_shorten(some: float) -> None:
    """A duration as text is at most a second longer than it was, never shorter."""
    assert 0 <= parse_duration(format_duration(some)) - some <= 1


@given(st.one_of(any_text, st.text("0123456789dhms", max_size=12)))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    """No text makes `parse_duration` raise anything but InvalidSetting."""
    try:
        assert 0 <= parse_duration(text) <= LONGEST_SECONDS
    except InvalidSetting:
        pass


@given(any_text, st.integers(1, 1024))
def test_every_key_has_a_lane(key: str, partitions: int) -> None:
    """A key's lane exists."""
    assert 0 <= lane_of(key, partitions) < partitions
