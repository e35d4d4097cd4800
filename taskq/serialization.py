"""Arguments and results as bytes, and back: codecs by content type.

What msgpack knows travels as it is; tuple, set, frozenset, datetime, date, time, timedelta,
Decimal, UUID, complex and integers beyond 64 bits travel as extensions and come back as what they
were. Pydantic models, dataclasses, named tuples, enum members, paths, URLs and IP addresses are
reduced to plain data: the receiver rebuilds them from its task's annotations. Nothing that could
run code on being read is ever written or read.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from taskq.errors import InvalidMessage, NotSerializable

MSGPACK = "application/msgpack"
JSON = "application/json"

# Extensions lie in each other as bytes, so each level of nesting copies what is below it.
MAX_EXTENSION_DEPTH = 64

_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME = 1, 2, 3, 4, 5, 6
_TIMEDELTA, _DECIMAL, _UUID, _COMPLEX, _INTEGER = 7, 8, 9, 10, 11
_MEND = "pass plain data, a dataclass or a pydantic model instead"


class Codec(Protocol):
    """Values as bytes of one content type."""

    @property
    def content_type(self) -> str: ...

    def encode(self, value: Any) -> bytes:
        """Raises NotSerializable, naming the path to what cannot be encoded and its type."""
        ...

    def decode(self, data: bytes) -> Any:
        """Raises InvalidMessage for bytes that are not of this codec."""
        ...


class Msgpack:
    """The codec of taskq's own senders; see the module for what comes back as what."""

    content_type = MSGPACK

    def encode(self, value: Any) -> bytes:
        try:
            return _pack(value)
        except _FAILURES as error:
            raise _not_serializable(value, "", _pack, error) from error

    def decode(self, data: bytes) -> Any:
        try:
            return _unpack(data)
        except (*_FAILURES, msgpack.exceptions.UnpackException) as error:
            raise InvalidMessage(f"not msgpack of ours: {type(error).__name__}: {error}"[:400]) from error


class Json:
    """The codec of senders in other languages. Extended types become text or lists; bytes must be UTF-8."""

    content_type = JSON

    def encode(self, value: Any) -> bytes:
        try:
            return _dump(value)
        except _FAILURES as error:
            raise _not_serializable(value, "", _dump, error) from error

    def decode(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except _FAILURES as error:
            raise InvalidMessage(f"not JSON: {type(error).__name__}: {error}"[:400]) from error


_CODECS: dict[str, Codec] = {MSGPACK: Msgpack(), JSON: Json()}


def codec_for(content_type: str | None) -> Codec:
    """The codec of a content type; parameters such as `; charset=utf-8` do not matter.

    Raises:
        InvalidMessage: no codec has it.
    """
    codec = _CODECS.get(content_type or "") or _CODECS.get((content_type or "").split(";")[0].strip().lower())
    if codec is None:
        raise InvalidMessage(f"payload type {content_type!r:.80} is not known: use {' or '.join(_CODECS)}")
    return codec


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The payload of a call, in msgpack: the array `[args, kwargs]`.

    Raises:
        NotSerializable: such as `args[1]['when']: <class 'socket.socket'>`.
    """
    try:
        return _pack([list(args), dict(kwargs)])
    except _FAILURES as error:
        for index, value in enumerate(args):
            if not _fits(value, _pack):
                raise _not_serializable(value, f"args[{index}]", _pack, error) from error
        for name, value in kwargs.items():
            if not _fits(value, _pack):
                raise _not_serializable(value, f"kwargs[{name!r}]", _pack, error) from error
        raise NotSerializable(f"the arguments cannot be encoded together: {error}") from error


def decode_arguments(payload: bytes, payload_type: str | None) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments of a payload.

    Args:
        payload: msgpack `[args, kwargs]`, or JSON `{"args": [...], "kwargs": {...}}`, either part optional.
        payload_type: its content type.

    Raises:
        InvalidMessage: another shape, broken bytes, or a type that is not known.
    """
    codec = codec_for(payload_type)
    value = codec.decode(payload)
    if codec.content_type == JSON:
        if not isinstance(value, dict) or not value.keys() <= {"args", "kwargs"}:
            raise InvalidMessage('a JSON payload is {"args": [...], "kwargs": {...}}')
        value = [value.get("args", []), value.get("kwargs", {})]
    match value:
        case [list() as args, dict() as kwargs] if all(type(name) is str for name in kwargs):
            return args, kwargs
    raise InvalidMessage("a payload holds a list of arguments and a map of named ones")


def encode_value(value: Any) -> bytes:
    """A result as msgpack.

    Raises:
        NotSerializable: naming the path within the result, and the type.
    """
    if value is None:
        return b"\xc0"
    try:
        return _pack(value)
    except _FAILURES as error:
        raise _not_serializable(value, "result", _pack, error) from error


def decode_value(data: bytes, content_type: str | None = MSGPACK) -> Any:
    """A result from its bytes.

    Raises:
        InvalidMessage: broken bytes, or a type that is not known.
    """
    return codec_for(content_type).decode(data)


# -- msgpack ------------------------------------------------------------------------------


def _pack(value: Any, depth: int = 0) -> bytes:
    # strict_types sends every subclass, and tuples, through the hook: enum members of int, named tuples.
    return msgpack.packb(  # type: ignore[no-any-return]
        value, default=_HOOKS[depth][0], strict_types=True, unicode_errors="surrogatepass"
    )


def _unpack(data: bytes, depth: int = 0) -> Any:
    return msgpack.unpackb(data, ext_hook=_HOOKS[depth][1], strict_map_key=False, unicode_errors="surrogatepass")


def _extend(depth: int, value: Any) -> Any:
    """What msgpack is to write for a value it does not know: an extension, or plain data.

    The packer asks once for each value, so a reduction that needs an extension itself is followed to its end.
    """
    for _ in range(_MAX_REDUCTIONS):
        kind = type(value)
        writer = _WRITERS.get(kind)
        if writer is not None:
            code, write = writer
            return msgpack.ExtType(code, write(value))
        collection = _COLLECTIONS.get(kind)
        if collection is not None:
            if depth + 1 >= MAX_EXTENSION_DEPTH:
                raise _TooDeep("nested too deeply")
            return msgpack.ExtType(collection, _pack(list(value), depth + 1))
        value = _reduce(value)
        if type(value) in _NATIVE or (type(value) is int and -(2**63) <= value < 2**64):
            return value
    raise TypeError(f"{type(value)} cannot be encoded")


def _restore(depth: int, code: int, data: bytes) -> Any:
    """The value of an extension."""
    collection = _COLLECTORS.get(code)
    if collection is not None:
        if depth + 1 >= MAX_EXTENSION_DEPTH:
            raise _TooDeep("nested too deeply")
        items = _unpack(data, depth + 1)
        if type(items) is not list:
            raise ValueError(f"extension {code} holds no list")
        return collection(items)
    if code not in _READERS:
        raise ValueError(f"extension {code} is not known")
    return _READERS[code](data)


class _TooDeep(ValueError):
    """Collections lie in each other more deeply than the format holds."""


_FAILURES = (TypeError, ValueError, KeyError, RecursionError, AttributeError, ArithmeticError, struct.error)
_HOOKS = [(partial(_extend, depth), partial(_restore, depth)) for depth in range(MAX_EXTENSION_DEPTH)]


def _write_instant(value: datetime | time) -> bytes:
    """`<wall clock>|<fold>|<zone>`; the zone is "", an offset, or "=" and the name of an IANA zone."""
    return f"{value.replace(tzinfo=None).isoformat()}|{value.fold}|{_zone_text(value)}".encode()


def _zone_text(value: datetime | time) -> str:
    zone = value.tzinfo
    if zone is None:
        return ""
    if isinstance(zone, ZoneInfo) and zone.key:
        return f"={zone.key}"
    offset = value.utcoffset()
    return "" if offset is None else f"{offset / timedelta(microseconds=1):.0f}"


def _read_zone(text: str) -> tzinfo | None:
    if not text:
        return None
    if text.startswith("="):
        return ZoneInfo(text[1:])
    return UTC if text == "0" else timezone(timedelta(microseconds=int(text)))


def _read_datetime(data: bytes) -> datetime:
    wall, fold, zone = data.decode().split("|")
    return datetime.fromisoformat(wall).replace(fold=int(fold), tzinfo=_read_zone(zone))


def _read_time(data: bytes) -> time:
    wall, fold, zone = data.decode().split("|")
    return time.fromisoformat(wall).replace(fold=int(fold), tzinfo=_read_zone(zone))


def _write_integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


_WRITERS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    datetime: (_DATETIME, _write_instant),
    date: (_DATE, lambda value: value.isoformat().encode()),
    time: (_TIME, _write_instant),
    timedelta: (_TIMEDELTA, lambda value: struct.pack(">iii", value.days, value.seconds, value.microseconds)),
    Decimal: (_DECIMAL, lambda value: str(value).encode()),
    UUID: (_UUID, lambda value: value.bytes),
    complex: (_COMPLEX, lambda value: struct.pack(">dd", value.real, value.imag)),
    int: (_INTEGER, _write_integer),
}
_READERS: dict[int, Callable[[bytes], Any]] = {
    _DATETIME: _read_datetime,
    _DATE: lambda data: date.fromisoformat(data.decode()),
    _TIME: _read_time,
    _TIMEDELTA: lambda data: timedelta(*struct.unpack(">iii", data)),
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: UUID(bytes=data),
    _COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
    _INTEGER: lambda data: int.from_bytes(data, "big", signed=True),
}
_COLLECTIONS: dict[type, int] = {tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}
_NATIVE = frozenset({dict, list, str, float, bytes, bool, type(None)})
_MAX_REDUCTIONS = 8  # an enum member whose value is a named tuple takes two
_COLLECTORS: dict[int, Callable[[list[Any]], Any]] = {_TUPLE: tuple, _SET: set, _FROZENSET: frozenset}

# Subclasses of these are reduced to them; the order matters, for a datetime is a date.
_BASES: tuple[type, ...] = (
    dict, list, tuple, str, int, float, bytes, set, frozenset, datetime, date, time, timedelta, Decimal, UUID, complex,
)  # fmt: skip


# -- values of richer types ---------------------------------------------------------------


def _reduce(value: Any) -> Any:
    """The plainer value that stands for this one, one step down.

    Raises:
        TypeError: there is none.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath | ipaddress._IPAddressBase):
        return str(value)
    pydantic = sys.modules.get("pydantic")  # who holds a model has imported it
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        config = value.model_config
        by_name = config.get("validate_by_name") or config.get("populate_by_name")
        return value.model_dump(by_alias=not by_name, round_trip=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    for base in _BASES:
        if isinstance(value, base):
            return _as_base(value, base)
    if type(value).__module__ == "pydantic.networks":
        return str(value)
    raise TypeError(f"{type(value)} cannot be encoded")


def _as_base(value: Any, base: type) -> Any:
    if base is datetime:
        return datetime.combine(value.date(), value.time(), value.tzinfo)
    if base is date:
        return date(value.year, value.month, value.day)
    if base is time:
        return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)
    if base is timedelta:
        return timedelta(value.days, value.seconds, value.microseconds)
    if base is UUID:
        return UUID(int=value.int)
    if base is str:
        return str.__str__(value)
    return base(value)


# -- JSON ---------------------------------------------------------------------------------


def _dump(value: Any) -> bytes:
    return json.dumps(value, default=_json_default, allow_nan=False, separators=(",", ":")).encode()


def _json_default(value: Any) -> Any:
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal() | UUID() | complex():
            return str(value)
        case set() | frozenset():
            return list(value)
        case bytes() | bytearray():
            return value.decode()
    return _reduce(value)


# -- naming what cannot be encoded ---------------------------------------------------------


def _fits(value: Any, encode: Callable[[Any], bytes]) -> bool:
    try:
        encode(value)
    except _FAILURES:
        return False
    return True


def _not_serializable(value: Any, path: str, encode: Callable[[Any], bytes], error: Exception) -> NotSerializable:
    """The error that names the innermost part of the value that cannot be encoded."""
    for _ in range(MAX_EXTENSION_DEPTH):
        for step, part in _parts(value):
            if not _fits(part, encode):
                path, value = path + step, part
                break
        else:
            return NotSerializable(
                f"{path or 'value'}: {type(value)} cannot be encoded{_reason(value, error)}; {_MEND}"
            )
    return NotSerializable(f"{path[:80]}…: contains itself, or is nested too deeply; {_MEND}")


def _reason(value: Any, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return " (nested too deeply)"
    text = str(error)[:200]
    return "" if str(type(value)) in text else f" ({text})"


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            for key, part in value.items():
                yield f" key {key!r:.80}", key
                yield f"[{key!r:.80}]", part
        case list() | tuple():
            for index, part in enumerate(value):
                yield f"[{index}]", part
        case set() | frozenset():
            for part in value:
                yield "{…}", part
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                yield f".{field.name}", getattr(value, field.name, None)
        case _ if hasattr(type(value), "model_fields"):
            for name in type(value).model_fields:
                yield f".{name}", getattr(value, name, None)
