"""The frames that go past aiormq."""

from __future__ import annotations

import asyncio
import struct

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header
from pamqp.body import ContentBody
from pamqp.heartbeat import Heartbeat

from taskq.broker.rabbitmq import frames
from taskq.broker.rabbitmq.frames import Splitter

HOT, COLD = 3, 4


class Recorder:
    """A handler that keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.lost = False

    def method(self, method_id: int, payload: bytes) -> bool:
        self.seen.append(("method", method_id))
        return method_id == frames.BASIC_DELIVER

    def content(self, kind: int, payload: bytes) -> None:
        self.seen.append(("content", kind))

    def gone(self) -> None:
        self.lost = True


def deliver(channel: int, body: bytes) -> bytes:
    properties = commands.Basic.Properties(content_type="text/plain", message_id="m", headers={"x": 1})
    return b"".join(
        pamqp.frame.marshal(frame, channel)
        for frame in (
            commands.Basic.Deliver("tag", 7, True, "exchange", "key"),
            header.ContentHeader(0, len(body), properties),
            ContentBody(body),
        )
    )


async def split(pieces: list[bytes]) -> tuple[Recorder, bytes]:
    """What the hot channel's handler saw, and what was passed on."""
    splitter = Splitter(lambda: 0.0)
    recorder = Recorder()
    splitter.handlers[HOT] = recorder
    for piece in pieces:
        splitter.feed_data(piece)
    splitter.feed_eof()
    return recorder, await splitter.read()


@given(cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=12))
def test_splitting(cuts: list[int]) -> None:
    """However the bytes arrive, hot frames go to their channel's handler and all others on, unchanged and in order."""
    cold = deliver(COLD, b"cold")
    open_ok = pamqp.frame.marshal(commands.Channel.OpenOk(), HOT)
    beat = pamqp.frame.marshal(Heartbeat(), 0)
    stream = deliver(HOT, b"one") + cold + open_ok + deliver(HOT, b"two") + beat
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    pieces = [stream[a:b] for a, b in zip(places, places[1:], strict=False)]
    recorder, passed = asyncio.run(split(pieces))
    one = [("method", frames.BASIC_DELIVER), ("content", frames.HEADER), ("content", frames.BODY)]
    assert recorder.seen == [*one, ("method", 20 << 16 | 11), *one]
    assert passed == cold + open_ok + beat and recorder.lost


@pytest.mark.parametrize("data", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_other_protocols(data: bytes) -> None:
    """What is no AMQP frame is passed on untouched, for aiormq to refuse."""
    _, passed = asyncio.run(split([data, b"more"]))
    assert passed == data + b"more"


def test_heartbeats_are_fed() -> None:
    """A stream of deliveries alone still gives aiormq a heartbeat each second, so that it does not call it stuck."""

    async def run() -> bytes:
        now = [0.0]
        splitter = Splitter(lambda: now[0])
        splitter.handlers[HOT] = Recorder()
        for _ in range(50):
            now[0] += 0.1
            splitter.feed_data(deliver(HOT, b"x"))
        splitter.feed_eof()
        return await splitter.read()

    passed = asyncio.run(run())
    beat = pamqp.frame.marshal(Heartbeat(), 0)
    assert passed == beat * (len(passed) // len(beat)) and 4 <= len(passed) // len(beat) <= 5


def test_delivery_is_read() -> None:
    """Tag, flag, body size and properties of a delivery are what the broker sent."""
    method = pamqp.frame.marshal(commands.Basic.Deliver("tag", 2**40, True, "exchange", "key"), 1)[7:-1]
    assert frames.read_deliver(method) == (2**40, True)
    properties = commands.Basic.Properties(content_type="text/plain", message_id="m-1", headers={"a": 1}, priority=3)
    content = pamqp.frame.marshal(header.ContentHeader(0, 12, properties), 1)[7:-1]
    assert frames.read_content_header(content) == 12
    read = frames.Properties(content)
    assert (read.content_type, read.message_id, read.headers) == ("text/plain", "m-1", {"a": 1})


def test_bare_properties() -> None:
    """A message without properties has none."""
    content = pamqp.frame.marshal(header.ContentHeader(0, 0, commands.Basic.Properties()), 1)[7:-1]
    read = frames.Properties(content)
    assert (read.content_type, read.message_id, read.headers) == (None, None, {})


def test_broken_properties() -> None:
    """Properties of a foreign sender that cannot be read are no properties, and no error."""
    content = struct.pack(">HHQH", 60, 0, 0, 1 << 13 | 1 << 7) + b"\x00\x00\x00\x09\x03abX\xff"
    read = frames.Properties(content)
    assert (read.message_id, read.headers) == (None, {})


@given(
    body=st.binary(max_size=300),
    message_id=st.text(max_size=200),
    content_type=st.text(alphabet="abc/-", max_size=30),
    priority=st.integers(0, 31),
    sequence=st.integers(1, 2**63),
)
def test_publish_is_understood(body: bytes, message_id: str, content_type: str, priority: int, sequence: int) -> None:
    """pamqp reads a publish as it was meant, persistent and mandatory, with its body in pieces."""
    data = (
        frames.publish_method(5, "exchange", "key", mandatory=True)
        + frames.content_header(5, len(body), frames.short(content_type), priority, str(sequence), message_id)
        + frames.body_frames(5, body, frame_max=108)
    )
    read = []
    while data:
        used, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == 5
        read.append(frame)
        data = data[used:]
    method, content, *bodies = read
    assert (method.exchange, method.routing_key, method.mandatory) == ("exchange", "key", True)
    properties = content.properties
    assert (properties.delivery_mode, properties.priority) == (2, priority)
    assert properties.correlation_id == str(sequence) and (properties.content_type or "") == content_type
    assert len((properties.message_id or "").encode()) <= 255 and message_id.startswith(properties.message_id or "")
    assert content.body_size == len(body) and b"".join(part.value for part in bodies) == body
    assert all(len(part.value) <= 100 for part in bodies)


def test_acknowledgements_are_understood() -> None:
    """pamqp reads our acknowledgements as what they are."""
    _, channel, ack = pamqp.frame.unmarshal(frames.ack(9, 2**40, multiple=True))
    assert (channel, ack.name, ack.delivery_tag, ack.multiple) == (9, "Basic.Ack", 2**40, True)
    _, _, nack = pamqp.frame.unmarshal(frames.nack_requeue(9, 5))
    assert (nack.name, nack.delivery_tag, nack.multiple, nack.requeue) == ("Basic.Nack", 5, False, True)
