"""A request and its answer over one connection: HTTP/1.1, or HTTP/2 where the server chooses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, cast

import h11
import httpcore

from taskq.http.network import Stream

MAX_HEAD_BYTES = 100 * 1024  # of an answer's status line and headers
READ_BYTES = 64 * 1024
_JOINED_BYTES = 64 * 1024  # a body of so many is sent in one write with its headers

Fields = list[tuple[bytes, bytes]]


class Place(NamedTuple):
    """Where a request goes. `scheme`: http or https."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it is sent: nothing is added to it or changed.

    method   str
    target   bytes: path and query, visible ASCII
    headers  Host and what tells the body's length among them; checked, nobody does so later
    """

    place: Place
    method: str
    target: bytes
    headers: Fields
    body: bytes


class Exchanger(Protocol):
    """A connection. It takes one request at a time; after an error or a cancel it is of no use."""

    place: Place

    async def start(self, outgoing: Outgoing) -> tuple[int, Fields]:
        """Send a request; the status and the headers of its answer."""

    async def read(self) -> bytes:
        """The next bytes of the answer's body; empty: it is whole."""

    async def finish(self) -> bool:
        """After a whole body: whether the connection takes another request."""

    def usable(self) -> bool:
        """Whether it still does, as far as is known here."""

    async def aclose(self) -> None:
        """Close it."""


class Http1:
    """HTTP/1.1. h11 reads; what is written is written here, for h11 would check it all a second time."""

    def __init__(self, place: Place, stream: Stream) -> None:
        self.place = place
        self._stream = stream
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def start(self, outgoing: Outgoing) -> tuple[int, Fields]:
        self._state.send(_asked(outgoing.method))
        self._state.send(_END)
        try:
            await self._write(outgoing)
        except httpcore.WriteError:
            pass  # a server may answer, and close, before it has read all
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):  # not one of those that come before it
                return event.status_code, event.headers.raw_items()

    async def _write(self, outgoing: Outgoing) -> None:
        lines = [b"%b %b HTTP/1.1" % (outgoing.method.encode("ascii"), outgoing.target)]
        lines += [b"%b: %b" % field for field in outgoing.headers]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if len(outgoing.body) <= _JOINED_BYTES:
            await self._stream.write(head + outgoing.body)
        else:
            await self._stream.write(head)
            await self._stream.write(outgoing.body)

    async def read(self) -> bytes:
        while isinstance(event := await self._event(), h11.Data):
            if event.data:
                return bytes(event.data)
        return b""

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            try:
                event = self._state.next_event()
            except h11.RemoteProtocolError as error:
                raise httpcore.RemoteProtocolError(str(error)) from error
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # mypy does not narrow it
            data = await self._stream.read(READ_BYTES)
            if not data and self._state.their_state is h11.SEND_RESPONSE:
                raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
            self._state.receive_data(data)

    async def finish(self) -> bool:
        state = self._state
        if state.our_state is not h11.DONE or state.their_state is not h11.DONE or state.trailing_data[0]:
            return False
        state.start_next_cycle()
        return True

    def usable(self) -> bool:
        return self._stream.silent

    async def aclose(self) -> None:
        await self._stream.aclose()


@lru_cache(64)
def _asked(method: str) -> h11.Request:
    """What h11 must know of a request to read its answer."""
    return h11.Request(method=method, target="/", headers=[("Host", "")])


_END = h11.EndOfMessage()


class Http2:
    """HTTP/2, as httpcore speaks it."""

    def __init__(self, place: Place, stream: Stream) -> None:
        self.place = place
        self._stream = stream
        scheme, host, port = place
        origin = httpcore.Origin(scheme.encode(), host.encode(), port)
        self._connection = httpcore.AsyncHTTP2Connection(origin, stream)
        self._response: httpcore.Response | None = None
        self._chunks: AsyncGenerator[bytes, None] | None = None

    async def start(self, outgoing: Outgoing) -> tuple[int, Fields]:
        scheme, host, port = self.place
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=outgoing.target)
        request = httpcore.Request(outgoing.method, url, headers=outgoing.headers, content=outgoing.body)
        self._response = await self._connection.handle_async_request(request)
        self._chunks = cast(AsyncGenerator[bytes, None], aiter(self._response.stream))  # type: ignore[arg-type]
        return self._response.status, self._response.headers

    async def read(self) -> bytes:
        assert self._chunks is not None
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    async def finish(self) -> bool:
        await self._end()
        return self._connection.is_idle()

    async def _end(self) -> None:
        chunks, response = self._chunks, self._response
        self._chunks = self._response = None
        if chunks is not None and response is not None:
            await chunks.aclose()
            await response.aclose()

    def usable(self) -> bool:
        return not self._stream.ended and self._connection.is_available()

    async def aclose(self) -> None:
        try:
            await self._end()
        finally:
            await self._connection.aclose()
