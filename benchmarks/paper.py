"""A broker of paper: as much of AMQP 0-9-1 as taskq's adapter asks for, in the process and the loop of its client.

It keeps nothing and routes nothing: it confirms every publish, and gives the messages of its stock to who consumes
its one queue, within the prefetch. With it there is no other process whose pace a count could depend on.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pamqp import base, commands, frame

_PROTOCOL = b"AMQP\x00\x00\x09\x01"
_FRAME = struct.Struct(">BHI")
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_PUBLISH, _ACK = b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"
_SIZE = struct.Struct(">Q")
_CONFIRM = struct.Struct(">BHIIQBB")
_ACK_ID = 60 << 16 | 80
_ABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
}
_ANSWERS: dict[type, Any] = {
    commands.Connection.Open: commands.Connection.OpenOk,
    commands.Connection.Close: commands.Connection.CloseOk,
    commands.Channel.Open: commands.Channel.OpenOk,
    commands.Channel.Close: commands.Channel.CloseOk,
    commands.Exchange.Declare: commands.Exchange.DeclareOk,
    commands.Queue.Bind: commands.Queue.BindOk,
    commands.Basic.Qos: commands.Basic.QosOk,
}


@dataclass(slots=True)
class _Channel:
    """What the broker knows of one channel."""

    confirms: bool = False
    published: int = 0
    left: int = 0  # bytes of the body that is coming
    unconfirmed: bool = False
    prefetch: int = 0
    deliver: bytes = b""  # a delivery's method as far as its tag, of the consumer here
    delivered: int = 0
    settled: int = 0
    single: set[int] = field(default_factory=set)  # acknowledged alone, above `settled`


class PaperBroker:
    """The server, and the stock of its one queue.

    Args:
        queue: the queue whose consumers get the stock.
        content_type: of the messages in it.
    """

    def __init__(self, queue: str, content_type: str) -> None:
        self.queue = queue
        self.stock: deque[bytes] = deque()
        self.acknowledged = 0
        self.changed = asyncio.Event()
        self.peers: list[_Peer] = []
        kind = content_type.encode()
        self._properties = struct.pack(">HB", 1 << 15 | 1 << 12, len(kind)) + kind + b"\x02"
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; the URL."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Peer(self), "127.0.0.1", 0)
        return f"amqp://guest:guest@127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()

    def put(self, bodies: list[bytes]) -> None:
        """Lay messages on the queue."""
        self.stock.extend(bodies)
        for peer in self.peers:
            peer.deliver_all()

    async def until_acknowledged(self, count: int) -> None:
        """So many have been, since the start."""
        while self.acknowledged < count:
            self.changed.clear()
            await self.changed.wait()

    def content(self, number: int, body: bytes) -> bytes:
        """Header and body frames."""
        header = struct.pack(">HHQ", 60, 0, len(body)) + self._properties
        return _frame(_HEADER, number, header) + _frame(_BODY, number, body)


class _Peer(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, broker: PaperBroker) -> None:
        self._broker = broker
        self._rest = b""
        self._greeted = False
        self._channels: dict[int, _Channel] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._broker.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker.peers.remove(self)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        if not self._greeted:
            if len(data) < len(_PROTOCOL):
                self._rest = data
                return
            self._greeted, at = True, len(_PROTOCOL)
            about: dict[str, Any] = {"product": "RabbitMQ", "version": "3.10.8", "capabilities": _ABILITIES}
            self._send(commands.Connection.Start(0, 9, about, "PLAIN", "en_US"), 0)
        while len(data) - at >= 8:
            kind, number, size = _FRAME.unpack_from(data, at)
            end = at + 8 + size
            if end > len(data):
                break
            self._take(kind, number, data, at, end)
            at = end
        self._rest = data[at:]
        for number, channel in self._channels.items():
            if channel.unconfirmed:
                channel.unconfirmed = False
                self.transport.write(_CONFIRM.pack(_METHOD, number, 13, _ACK_ID, channel.published, 1, 0xCE))

    def _take(self, kind: int, number: int, data: bytes, at: int, end: int) -> None:
        channel = self._channels.setdefault(number, _Channel())
        if kind == _METHOD:
            method = data[at + 7 : at + 11]
            if method == _ACK:
                self._acknowledged(number, channel, *struct.unpack_from(">QB", data, at + 11))
            elif method != _PUBLISH:
                self._answer(number, channel, frame.unmarshal(data[at:end])[2])
        elif kind == _HEADER:
            channel.left = _SIZE.unpack_from(data, at + 11)[0]
            self._published(channel)
        elif kind == _BODY:
            channel.left -= end - at - 8
            self._published(channel)

    def _published(self, channel: _Channel) -> None:
        if not channel.left and channel.confirms:
            channel.published += 1
            channel.unconfirmed = True

    def _acknowledged(self, number: int, channel: _Channel, tag: int, multiple: int) -> None:
        before = channel.settled + len(channel.single)
        if multiple:
            channel.settled = tag
            channel.single = {each for each in channel.single if each > tag}
        else:
            channel.single.add(tag)
        while channel.settled + 1 in channel.single:
            channel.settled += 1
            channel.single.discard(channel.settled)
        self._broker.acknowledged += channel.settled + len(channel.single) - before
        self._broker.changed.set()
        self._deliver(number, channel)

    def deliver_all(self) -> None:
        """To every consumer that has room."""
        for number, channel in self._channels.items():
            self._deliver(number, channel)

    def _deliver(self, number: int, channel: _Channel) -> None:
        room = channel.prefetch - (channel.delivered - channel.settled - len(channel.single))
        parts = []
        while channel.deliver and room > 0 and self._broker.stock:
            room -= 1
            channel.delivered += 1
            method = channel.deliver + _SIZE.pack(channel.delivered) + b"\x00\x00\x00"  # not redelivered; no names
            parts += [_frame(_METHOD, number, method), self._broker.content(number, self._broker.stock.popleft())]
        if parts:
            self.transport.write(b"".join(parts))

    def _answer(self, number: int, channel: _Channel, method: Any) -> None:
        match method:
            case commands.Connection.StartOk():
                self._send(commands.Connection.Tune(2047, 131072, 60), 0)
            case commands.Connection.TuneOk() | commands.Channel.CloseOk() | commands.Connection.CloseOk():
                return
            case commands.Confirm.Select():
                channel.confirms = True
                self._send(commands.Confirm.SelectOk(), number)
            case commands.Queue.Declare():
                name = method.queue or f"paper-{number}"
                self._send(commands.Queue.DeclareOk(name, len(self._broker.stock), 0), number)
            case commands.Basic.Consume():
                self._send(commands.Basic.ConsumeOk("c"), number)
                if method.queue == self._broker.queue:
                    channel.deliver = b"\x00\x3c\x00\x3c\x01c"
                    self._deliver(number, channel)
            case commands.Basic.Cancel():
                channel.deliver = b""
                self._send(commands.Basic.CancelOk("c"), number)
            case _:
                if isinstance(method, commands.Basic.Qos):
                    channel.prefetch = method.prefetch_count
                if isinstance(method, commands.Channel.Close):
                    self._channels[number] = _Channel()
                self._send(_ANSWERS[type(method)](), number)

    def _send(self, method: base.Frame, number: int) -> None:
        self.transport.write(frame.marshal(method, number))


def _frame(kind: int, number: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, number, len(payload)) + payload + b"\xce"
