"""Arguments and results as bytes."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import math
import socket
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pydantic
import pytest

from taskq.errors import InvalidMessage, NotSerializable
from taskq.serialization import (
    JSON,
    MSGPACK,
    codec_for,
    decode_arguments,
    decode_value,
    encode_arguments,
    encode_value,
)

PARIS = ZoneInfo("Europe/Paris")
BOTH_TIMES_HALF_PAST_TWO = datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=1)


@dataclasses.dataclass
class Order:
    number: int
    lines: Any = ()
    total: int = dataclasses.field(default=0, init=False)


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    name: str = pydantic.Field(alias="customerName")
    since: date
    site: pydantic.HttpUrl | None = None
    extra: Any = None


class Colour(enum.Enum):
    RED = ("r", 1)


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: int


class Late(datetime):
    """As libraries make them."""


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**100, 1.5, -0.0, math.inf, "", "é", "a\0b",
        "\ud800", b"\xff", [], [1, [2]], (), (1, (2, [3])), {}, {"a": {1: 2}}, {(1, 2): 3, None: 4}, set(), {1, (2,)},
        frozenset({frozenset({1})}), 1 + 2j, Decimal("1.10"), Decimal("-Infinity"), UUID(int=5), date(1, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(2026, 1, 1, tzinfo=UTC), BOTH_TIMES_HALF_PAST_TWO,
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, microseconds=7))), time(1, 2, 3, 4),
        time(5, tzinfo=PARIS), time(5, tzinfo=UTC), timedelta.max, timedelta.min, timedelta(microseconds=-1),
    ],
    ids=repr,
)  # fmt: skip
def test_comes_back_as_it_was(value: Any) -> None:
    """Plain values and extended ones keep value and type, alone and inside each other."""
    for sent in (value, [value], (value, {"deep": [value]})):
        back = decode_value(encode_value(sent), MSGPACK)
        assert back == sent and type(back) is type(sent) and repr(back) == repr(sent)


def test_the_second_half_past_two() -> None:
    """A zone keeps its name and an ambiguous hour its side."""
    back = decode_value(encode_value(BOTH_TIMES_HALF_PAST_TWO))
    assert (back.tzinfo, back.fold, back.utcoffset()) == (PARIS, 1, timedelta(hours=1))


def test_nan() -> None:
    """NaN arrives, as a float and as a Decimal."""
    assert math.isnan(decode_value(encode_value(math.nan))) and decode_value(encode_value(Decimal("NaN"))).is_nan()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Order(1, [Point(1, 2)]), {"number": 1, "lines": [(1, 2)]}),
        (
            Customer(customerName="A", since=date(2026, 1, 1), site="http://a/b"),
            {"customerName": "A", "since": date(2026, 1, 1), "site": "http://a/b", "extra": None},
        ),
        (Colour.RED, ("r", 1)),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        ({Level.HIGH: Word.YES}, {3: "yes"}),
        (Point(1, 2), (1, 2)),
        (Path("/tmp/x"), "/tmp/x"),
        (ipaddress.ip_address("::1"), "::1"),
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aa"), {"a": 2}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (bytearray(b"x"), b"x"),
        (Late(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    ],
    ids=repr,
)
def test_is_reduced(value: Any, plain: Any) -> None:
    """Richer types travel as the plain data that their annotation rebuilds them from."""
    back = decode_value(encode_value(value))
    assert back == plain and type(back) is type(plain)


def test_models_are_rebuilt() -> None:
    """A model and a dataclass come back through validation as they were sent."""
    customer, order = Customer(customerName="A", since=date(2026, 1, 1)), Order(1, [2])
    args, _ = decode_arguments(encode_arguments([customer, order], {}), MSGPACK)
    assert pydantic.TypeAdapter(Customer).validate_python(args[0]) == customer
    assert pydantic.TypeAdapter(Order).validate_python(args[1]) == order


SOCKET = "<class 'socket.socket'>"


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda bad: ([1, {"when": bad}], {}), rf"args\[1\]\['when'\]: {SOCKET}"),
        (lambda bad: ([], {"order": Order(1, [0, bad])}), rf"kwargs\['order'\]\.lines\[1\]: {SOCKET}"),
        (lambda bad: ([Customer(customerName="A", since=date.min, extra=bad)], {}), rf"args\[0\]\.extra: {SOCKET}"),
        (lambda bad: ([(1, bad)], {}), rf"args\[0\]\[1\]: {SOCKET}"),
        (lambda bad: ([{bad: 1}], {}), rf"args\[0\] key .*: {SOCKET}"),
        (lambda bad: ([{1, bad}], {}), rf"args\[0\].*: {SOCKET}"),
    ],
)
def test_names_what_cannot_be_encoded(wrap: Any, path: str) -> None:
    """The error names the path to the value, its type, and what to pass instead."""
    with socket.socket() as bad, pytest.raises(NotSerializable, match=path) as caught:
        encode_arguments(*wrap(bad))
    assert "pass plain data" in str(caught.value)


def test_results_name_it_too() -> None:
    """A result that cannot be encoded says where in the result the trouble lies."""
    with pytest.raises(NotSerializable, match=r"result\['a'\]: <class 'function'>"):
        encode_value({"a": lambda: None})


def endless_list() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def endless_order() -> Any:
    order = Order(1)
    order.lines = order
    return order


def deep(make: Any, depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        endless_list(),
        endless_order(),
        deep(lambda v: [v], 200_000),
        deep(lambda v: {"a": v}, 200_000),
        deep(lambda v: (v,), 70),
    ],
    ids=["list in itself", "dataclass in itself", "lists", "dicts", "tuples"],
)
@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_nested_without_end(value: Any, content_type: str) -> None:
    """What contains itself or is nested too deeply is refused, with a short error, and nothing crashes."""
    if content_type == JSON and isinstance(value, tuple):
        assert codec_for(JSON).decode(codec_for(JSON).encode(value))
        return
    with pytest.raises(NotSerializable, match="itself|nested too deeply") as caught:
        codec_for(content_type).encode(value)
    assert len(str(caught.value)) < 500


def ext(code: int, data: bytes) -> bytes:
    return msgpack.packb([msgpack.ExtType(code, data)])


def russian_doll(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = ext(1, data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x91" * 5000, russian_doll(300), ext(2, b"\x91\x90"), ext(2, b"\x05"), ext(4, b"x"),
        ext(99, b""), ext(8, b"x"), ext(9, b"x"), ext(7, b"x"),
        ext(4, b"2024-01-01T00:00:00|0|=No/Where"), ext(4, b"x||"),
        ext(5, b"2024-13-01"), ext(4, b"2024-01-01T00:00:00|0|=../../etc/passwd"),
        ext(4, b"2024-01-01T00:00:00|0|" + b"9" * 30),
        b"\x81\x90\x01", b"\xa1\xff",
    ],
)  # fmt: skip
def test_hostile_bytes(data: bytes) -> None:
    """Bytes that are not ours raise InvalidMessage, and nothing else."""
    with pytest.raises(InvalidMessage):
        decode_value(data, MSGPACK)


@pytest.mark.parametrize("value", [5, [], [1], [1, 2], [[], {}, 1], [[], {1: 2}], [{}, []]])
def test_payloads_of_another_shape(value: Any) -> None:
    """A payload is a list of arguments and a map of named ones, and nothing else."""
    with pytest.raises(InvalidMessage, match="list of arguments and a map"):
        decode_arguments(encode_value(value), MSGPACK)


def test_json_payloads() -> None:
    """Senders in other languages write a JSON object; either part may be missing."""
    assert decode_arguments(b'{"args": [1, "a"], "kwargs": {"b": null}}', JSON) == ([1, "a"], {"b": None})
    assert decode_arguments(b"{}", f"{JSON}; charset=utf-8") == ([], {})
    for other in (b"[]", b'{"arguments": []}', b'{"args": {}}', b"\xff", b"1" * 5000):
        with pytest.raises(InvalidMessage):
            decode_arguments(other, JSON)


def test_json_values() -> None:
    """Extended types become what pydantic reads back; NaN and bytes that are no text are refused."""
    codec = codec_for(JSON)
    values = [UUID(int=5), Decimal("1.10"), timedelta(seconds=1.5), date(2026, 1, 1), {7}, (1,), b"abc", Level.HIGH]
    expected = b'["00000000-0000-0000-0000-000000000005","1.10",1.5,"2026-01-01",[7],[1],"abc",3]'
    assert codec.encode(values) == expected
    for bad in (math.nan, b"\xff", {(1, 2): 3}):
        with pytest.raises(NotSerializable):
            codec.encode([bad])


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "", None, "text/plain"])
def test_unknown_codecs(content_type: str | None) -> None:
    """A codec that is not known is named beside those that are; pickle is none."""
    with pytest.raises(InvalidMessage, match="use application/msgpack or application/json"):
        decode_value(b"", content_type)
