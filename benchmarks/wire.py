"""A bare AMQP client over a blocking socket: fills queues fast, asks their depth, deletes them.

It shares no code with any contestant. As the fastest sender at hand it also shows what the broker itself takes.
"""

from __future__ import annotations

import socket
from types import TracebackType
from urllib.parse import unquote, urlsplit

from pamqp import base, body, commands, frame, header

_WINDOW = 2_000  # unconfirmed publishes at most


class BareClient:
    """One connection with one channel in confirm mode."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "localhost", parts.port or 5672), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        about = self._expect(commands.Connection.Start).server_properties
        self.server = f"{about.get('product', 'unknown')} {about.get('version', '')}"
        self._send(commands.Connection.StartOk({}, "PLAIN", f"\0{user}\0{password}", "en_US"), channel=0)
        tune = self._expect(commands.Connection.Tune)
        self._send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), channel=0)
        self._send(commands.Connection.Open(unquote(parts.path[1:]) or "/"), channel=0)
        self._expect(commands.Connection.OpenOk)
        self._open_channel()

    def _open_channel(self) -> None:
        self._send(commands.Channel.Open())
        self._expect(commands.Channel.OpenOk)
        self._send(commands.Confirm.Select())
        self._expect(commands.Confirm.SelectOk)
        self._published = 0

    def __enter__(self) -> BareClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    # -- frames -----------------------------------------------------------------------------

    def _send(self, method: base.Frame, channel: int = 1) -> None:
        self._socket.sendall(frame.marshal(method, channel))

    def _read(self) -> base.Frame | header.ContentHeader | body.ContentBody:
        while True:
            if len(self._buffer) >= 7:
                size = int.from_bytes(self._buffer[3:7], "big") + 8
                if len(self._buffer) >= size:
                    _, _, value = frame.unmarshal(self._buffer[:size])
                    self._buffer = self._buffer[size:]
                    return value
            data = self._socket.recv(1 << 14)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._buffer += data

    def _expect(self, kind: type) -> base.Frame:
        value = self._read()
        if isinstance(value, commands.Connection.Close | commands.Channel.Close):
            if isinstance(value, commands.Channel.Close):
                self._send(commands.Channel.CloseOk())
                self._open_channel()
            raise LookupError(value.reply_text)
        if not isinstance(value, kind):
            raise ConnectionError(f"expected {kind.__name__}, got {type(value).__name__}")
        return value

    # -- verbs ------------------------------------------------------------------------------

    def get_one(self, queue: str) -> tuple[commands.Basic.Properties, bytes]:
        """Take one message off the queue."""
        self._send(commands.Basic.Get(queue=queue, no_ack=True))
        self._expect(commands.Basic.GetOk)
        head = self._read()
        assert isinstance(head, header.ContentHeader)
        content = b""
        while len(content) < head.body_size:
            part = self._read()
            assert isinstance(part, body.ContentBody)
            content += part.value
        return head.properties, content

    def publish_copies(self, queue: str, properties: commands.Basic.Properties, content: bytes, copies: int) -> None:
        """Publish the same message so many times, and return when all are confirmed."""
        one = (
            frame.marshal(commands.Basic.Publish(exchange="", routing_key=queue), 1)
            + frame.marshal(header.ContentHeader(0, len(content), properties), 1)
            + frame.marshal(body.ContentBody(content), 1)
        )
        below, above = self._published, set[int]()  # confirmed: every tag up to `below`, and those in `above`
        target = self._published + copies
        while below < target:
            count = min(target - self._published, _WINDOW - (self._published - below))
            if count > 0:
                self._socket.sendall(one * count)
                self._published += count
            ack = self._expect(commands.Basic.Ack)
            if ack.multiple:
                below = max(below, ack.delivery_tag)
            else:
                above.add(ack.delivery_tag)
            while below + 1 in above:
                below += 1
                above.discard(below)

    def depth(self, queue: str) -> int | None:
        """Messages ready in the queue; None: it does not exist."""
        self._send(commands.Queue.Declare(queue=queue, passive=True))
        try:
            return int(self._expect(commands.Queue.DeclareOk).message_count)
        except LookupError:
            return None

    def purge(self, queue: str) -> None:
        """Drop what is ready in the queue; nothing happens if it is not there."""
        self._send(commands.Queue.Purge(queue=queue))
        try:
            self._expect(commands.Queue.PurgeOk)
        except LookupError:
            return  # no such queue: nothing to drop

    def delete_queue(self, queue: str) -> None:
        """Delete the queue with all it holds; nothing happens if it is not there."""
        self._send(commands.Queue.Delete(queue=queue))
        self._expect(commands.Queue.DeleteOk)

    def delete_exchange(self, exchange: str) -> None:
        self._send(commands.Exchange.Delete(exchange=exchange))
        self._expect(commands.Exchange.DeleteOk)
