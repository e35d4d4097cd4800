"""The frames that move with every message, read and written without aiormq.

A `Splitter` stands where aiormq expects its stream reader: it cuts the bytes into frames, hands those
of the hot channels to their handlers, and passes every other frame on to aiormq unchanged.
Only methods of AMQP 0-9-1 itself are read here, which is frozen.

Source: AMQP 0-9-1 specification, sections 2.3 and 4.2; RabbitMQ documentation, "AMQP 0-9-1 Errata".
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pamqp.commands import Basic

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
_HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_OVERHEAD = 8  # bytes of a frame around its payload

CONNECTION_CLOSE = 10 << 16 | 50
CONNECTION_BLOCKED = 10 << 16 | 60
CONNECTION_UNBLOCKED = 10 << 16 | 61
CHANNEL_CLOSE = 20 << 16 | 40
CHANNEL_CLOSE_OK = 20 << 16 | 41
BASIC_CANCEL = 60 << 16 | 30
BASIC_RETURN = 60 << 16 | 50
BASIC_DELIVER = 60 << 16 | 60
BASIC_ACK = 60 << 16 | 80
BASIC_NACK = 60 << 16 | 120

_FRAME = struct.Struct(">BHI")
_METHOD_ID = struct.Struct(">I")
_TAG = struct.Struct(">QB")
_CLOSE = struct.Struct(">HB")
_CONTENT = struct.Struct(">HHQH")
_ACK = struct.Struct(">BHIIQBB")
_LARGEST_FRAME = 1 << 24  # what no broker sends: the peer does not speak AMQP


class Handler(Protocol):
    """What takes the hot frames of one channel."""

    def method(self, method_id: int, payload: bytes) -> bool:
        """Take a method frame; False passes it on to aiormq. `payload` begins with the method's id."""
        ...

    def content(self, kind: int, payload: bytes) -> None:
        """Take a header or body frame."""
        ...

    def gone(self) -> None:
        """The connection went: nothing that this channel brought means anything now."""
        ...


class Splitter(asyncio.StreamReader):
    """A stream reader that keeps the hot frames from its reader."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.handlers: dict[int, Handler] = {}
        self.last_heard = now()
        self.close_code = 0  # of the broker's Connection.Close
        self.blocked = ""
        self.on_blocked: Callable[[str], None] | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.now = now
        self._rest = b""
        self._raw = False
        self._fed_heartbeat = self.last_heard

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # transports feed bytes
        if self._raw:
            super().feed_data(data)
            return
        if self._rest:
            data = self._rest + data
        position, end_of_data = 0, len(data)
        passed_from = 0  # frames from here to `position` go on to aiormq in one piece
        passed: list[bytes] = []
        heard = False
        while end_of_data - position >= _OVERHEAD:
            kind, channel, size = _FRAME.unpack_from(data, position)
            if kind > HEARTBEAT or size > _LARGEST_FRAME:
                self._raw = True  # no AMQP: aiormq says so
                position = end_of_data
                break
            end = position + 7 + size + 1
            if end > end_of_data:
                break
            if kind != HEARTBEAT:
                heard = True
            if self._take(kind, channel, data, position + 7, end - 1):
                if passed_from < position:
                    passed.append(data[passed_from:position])
                passed_from = end
            position = end
        if passed_from < position:
            passed.append(data[passed_from:position])
        self._rest = data[position:]
        self._pass_on(passed, heard)

    def _pass_on(self, passed: list[bytes], heard: bool) -> None:
        now = self.now()
        if heard:
            self.last_heard = now
        if passed:
            super().feed_data(b"".join(passed))
            self._fed_heartbeat = now
        elif now - self._fed_heartbeat >= 1.0:
            # A broker that sends deliveries sends no heartbeats, and aiormq, which sees none of them, would
            # take the connection for stuck.
            super().feed_data(_HEARTBEAT_FRAME)
            self._fed_heartbeat = now

    def _take(self, kind: int, channel: int, data: bytes, start: int, end: int) -> bool:
        handler = self.handlers.get(channel)
        if handler is not None:
            payload = data[start:end]
            if kind == METHOD:
                return handler.method(_METHOD_ID.unpack_from(payload)[0], payload)
            handler.content(kind, payload)
            return True
        if channel == 0 and kind == METHOD:
            self._connection_method(_METHOD_ID.unpack_from(data, start)[0], data[start:end])
        return False

    def _connection_method(self, method_id: int, payload: bytes) -> None:
        if method_id == CONNECTION_CLOSE:
            self.close_code, text = read_close(payload)
            self.fail(f"closed by the broker: {self.close_code} {text}")
        elif method_id in (CONNECTION_BLOCKED, CONNECTION_UNBLOCKED):
            blocked = method_id == CONNECTION_BLOCKED
            self.blocked = (_short_text(payload, 4)[0] or "blocked") if blocked else ""
            if self.on_blocked is not None:
                self.on_blocked(self.blocked)

    def feed_eof(self) -> None:
        super().feed_eof()
        self.fail("closed by the peer")

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]
        self.fail(f"{type(exc).__name__}: {exc}")

    def fail(self, reason: str) -> None:
        """The connection is lost: every channel of it is told at once, before any other code runs."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        for handler in list(self.handlers.values()):
            handler.gone()


class Properties:
    """The properties of a delivery, read when asked for."""

    __slots__ = ("_parsed", "_payload")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._parsed: Basic.Properties | None = None

    @property
    def content_type(self) -> str | None:
        # The first property, and the one that is always read.
        if not self._payload[12] & 0x80:
            return None
        return self._payload[15 : 15 + self._payload[14]].decode("utf-8", "replace")

    @property
    def message_id(self) -> str | None:
        return self._all().message_id

    @property
    def headers(self) -> Mapping[str, Any]:
        if not self._payload[12] & 0x20:
            return {}
        return self._all().headers or {}

    def _all(self) -> Basic.Properties:
        if self._parsed is None:
            self._parsed = _read_properties(self._payload)
        return self._parsed


def _read_properties(payload: bytes) -> Basic.Properties:
    """The properties in a content header; none of them, if a foreign sender's cannot be read."""
    properties = Basic.Properties()
    (flags,) = struct.unpack_from(">H", payload, 12)
    try:
        properties.unmarshal(flags, payload[14:])
    except (ValueError, TypeError, LookupError, struct.error, OverflowError, OSError):
        return Basic.Properties()
    return properties


def read_close(payload: bytes) -> tuple[int, str]:
    """Code and text of a Connection.Close or Channel.Close."""
    code, size = _CLOSE.unpack_from(payload, 4)
    return code, payload[7 : 7 + size].decode("utf-8", "replace")


def read_deliver(payload: bytes) -> tuple[int, bool]:
    """Delivery tag and the redelivered flag of a Basic.Deliver."""
    tag, redelivered = _TAG.unpack_from(payload, 5 + payload[4])
    return tag, bool(redelivered & 1)


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Delivery tag and the multiple flag of a Basic.Ack or Basic.Nack."""
    tag, bits = _TAG.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def read_content_header(payload: bytes) -> int:
    """The size of the body that a content header announces."""
    size: int = _CONTENT.unpack_from(payload)[2]
    return size


def correlation_of(payload: bytes) -> str | None:
    """The correlation id in a content header."""
    return _read_properties(payload).correlation_id


def _short_text(payload: bytes, start: int) -> tuple[str, int]:
    end = start + 1 + payload[start]
    return payload[start + 1 : end].decode("utf-8", "replace"), end


def short(text: str) -> bytes:
    """A short string on the wire: at most 255 bytes, cut between characters if need be."""
    data = text.encode()
    if len(data) > 255:
        data = data[:255].decode("utf-8", "ignore").encode()
    return bytes((len(data),)) + data


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame."""
    return _FRAME.pack(kind, channel, len(payload)) + payload + FRAME_END


def publish_method(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """The Basic.Publish frame: the same for every message of a route."""
    payload = b"\x00\x3c\x00\x28\x00\x00" + short(exchange) + short(routing_key) + (b"\x01" if mandatory else b"\x00")
    return frame(METHOD, channel, payload)


# content-type, delivery-mode, priority, correlation-id, message-id
_OUTGOING_FLAGS = 1 << 15 | 1 << 12 | 1 << 11 | 1 << 10 | 1 << 7


def content_header(
    channel: int, size: int, content_type: bytes, priority: int, correlation: str, message_id: str
) -> bytes:
    """The header frame of a persistent message. `content_type` is a short string on the wire."""
    payload = b"".join(
        (
            _CONTENT.pack(60, 0, size, _OUTGOING_FLAGS),
            content_type,
            b"\x02",
            bytes((priority,)),
            short(correlation),
            short(message_id),
        )
    )
    return _FRAME.pack(HEADER, channel, len(payload)) + payload + FRAME_END


def bare_header(channel: int, size: int) -> bytes:
    """The header frame of a transient message without properties."""
    return frame(HEADER, channel, _CONTENT.pack(60, 0, size, 0))


def body_frames(channel: int, body: bytes, frame_max: int) -> bytes:
    """The body, cut to the size that the broker takes."""
    room = frame_max - _OVERHEAD
    if len(body) <= room:
        return _FRAME.pack(BODY, channel, len(body)) + body + FRAME_END if body else b""
    return b"".join(frame(BODY, channel, body[at : at + room]) for at in range(0, len(body), room))


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """A Basic.Ack frame."""
    return _ACK.pack(METHOD, channel, 13, BASIC_ACK, tag, multiple, 0xCE)


def nack_requeue(channel: int, tag: int) -> bytes:
    """A Basic.Nack frame that gives one message back."""
    return _ACK.pack(METHOD, channel, 13, BASIC_NACK, tag, 0b10, 0xCE)
