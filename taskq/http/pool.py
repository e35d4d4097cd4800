"""Connections that are kept for the next delivery to the same place."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import httpcore

from taskq.clock import Clock
from taskq.http.network import Stream

KEEPALIVE = 4.0  # seconds that an unused connection is kept: many servers close theirs after five
MAX_UNUSED = 200  # connections

_Place = tuple[bytes, bytes, int]  # scheme, host, port


@dataclass(eq=False, slots=True)
class _Kept:
    """A connection. `stream`: what it runs over, known with its first answer."""

    place: _Place
    connection: httpcore.AsyncHTTPConnection
    stream: Stream | None = None

    def usable(self) -> bool:
        """Whether it takes another request, as far as is known here."""
        if self.stream is None or self.stream.ended:
            return False
        return self.connection.is_available() and not self.connection.has_expired()


class ConnectionPool:
    """httpcore's connections, each for one request at a time, found by their place in one step.

    httpcore's own pool looks at every connection several times for every request, loses one for good whose first
    request is cancelled at the wrong moment, and lets requests share a connection of HTTP/2, where an answer that is
    cut or given up stops all others: what comes of it is read by nobody, and counts as not yet taken.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, tls: ssl.SSLContext, clock: Clock) -> None:
        self._backend = backend
        self._tls = tls
        self._clock = clock
        self._open: set[_Kept] = set()
        self._free: dict[_Place, list[_Kept]] = {}
        self._unused: dict[_Kept, float] = {}  # since when, the longest unused first

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, used ones too."""
        for kept in list(self._open):
            await self._drop(kept)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """The answer; its stream has to be closed."""
        origin = request.url.origin
        place = (origin.scheme, origin.host, origin.port)
        await self._sweep()
        while True:
            found = await self._find(place)
            kept = found or self._make(place, origin)
            try:
                response = await kept.connection.handle_async_request(request)
                break
            except BaseException as error:
                await self._drop(kept)
                if found is None or not isinstance(error, httpcore.ConnectionNotAvailable):
                    raise
                # Its server had ended it, and has not looked at the request.
        kept.stream = cast(Stream, response.extensions["network_stream"])
        body = _Body(self, kept, response)
        return httpcore.Response(
            response.status, headers=response.headers, content=body, extensions=response.extensions
        )

    def _make(self, place: _Place, origin: httpcore.Origin) -> _Kept:
        connection = httpcore.AsyncHTTPConnection(
            origin, self._tls, keepalive_expiry=KEEPALIVE, http2=True, network_backend=self._backend
        )
        kept = _Kept(place, connection)
        self._open.add(kept)
        return kept

    async def _find(self, place: _Place) -> _Kept | None:
        """The connection to that place that was used last, of those that take a request."""
        while place in self._free:
            kept = self._free[place][-1]
            self._take_out(kept)
            if kept.usable():
                return kept
            await self._drop(kept)
        return None

    async def release(self, kept: _Kept, *, clean: bool) -> None:
        """A request is done with it. Not `clean`: of its answer something may still come."""
        if clean and kept in self._open and kept.connection.is_idle():
            self._free.setdefault(kept.place, []).append(kept)
            self._unused[kept] = self._clock.monotonic()
        else:
            await self._drop(kept)

    async def _sweep(self) -> None:
        """Close what has been unused for too long, or is too much."""
        now = self._clock.monotonic()
        while self._unused:
            kept, since = next(iter(self._unused.items()))
            if now - since <= KEEPALIVE and len(self._unused) <= MAX_UNUSED:
                return
            await self._drop(kept)

    async def _drop(self, kept: _Kept) -> None:
        self._take_out(kept)
        self._open.discard(kept)
        await kept.connection.aclose()

    def _take_out(self, kept: _Kept) -> None:
        if self._unused.pop(kept, None) is not None:
            free = self._free[kept.place]
            free.remove(kept)
            if not free:
                del self._free[kept.place]


class _Body:
    """The bytes of an answer; closing it lets its connection go."""

    def __init__(self, pool: ConnectionPool, kept: _Kept, response: httpcore.Response) -> None:
        self._pool = pool
        self._kept = kept
        self._response = response
        stream = cast(AsyncIterable[bytes], response.stream)  # as httpcore's async connections have it
        self._chunks = cast(AsyncGenerator[bytes, None], aiter(stream))
        self._ended = False
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            raise

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._chunks.aclose()
            await self._response.aclose()
        finally:
            await self._pool.release(self._kept, clean=self._ended)
