"""Connections that are kept for the next delivery to the same place."""

from __future__ import annotations

import ssl

import httpcore

from taskq.clock import Clock
from taskq.http.exchange import Exchanger, Fields, Http1, Http2, Outgoing, Place
from taskq.http.network import GuardedBackend

KEEPALIVE = 4.0  # seconds that an unused connection is kept: many servers close theirs after five
MAX_UNUSED = 200  # connections

# What a destination may do to a request; their texts say it all.
FAILURES = (
    httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.UnsupportedProtocol,
)  # fmt: skip


class ConnectionPool:
    """Connections, each for one request at a time, found by their place in one step.

    httpcore's own pool looks at every connection several times for every request, loses one for good whose first
    request is cancelled at the wrong moment, and lets requests share a connection of HTTP/2, where an answer that is
    cut or given up stops all others: what comes of it is read by nobody, and counts as not yet taken.
    """

    def __init__(self, backend: GuardedBackend, tls: ssl.SSLContext, clock: Clock) -> None:
        self._backend = backend
        self._tls = tls
        self._tls.set_alpn_protocols(["http/1.1", "h2"])
        self._clock = clock
        self._open: set[Exchanger] = set()
        self._free: dict[Place, list[Exchanger]] = {}
        self._unused: dict[Exchanger, float] = {}  # since when, the longest unused first

    async def aclose(self) -> None:
        """Close all connections, used ones too."""
        for connection in list(self._open):
            await self._drop(connection)

    async def exchange(self, outgoing: Outgoing, *, most: int) -> tuple[int, Fields, bytes]:
        """The status, headers and body of the answer; the body as it came, not decoded, cut at `most` bytes.

        Raises:
            One of `FAILURES`: there is no whole answer.
        """
        await self._sweep()
        while True:
            found = await self._find(outgoing.place)
            connection = found or await self._make(outgoing.place)
            try:
                status, headers = await connection.start(outgoing)
                body = bytearray()
                while len(body) < most and (chunk := await connection.read()):
                    body += chunk
                # Of a body that was cut something may still come.
                await self._release(connection, clean=len(body) < most and await connection.finish())
                return status, headers, bytes(body[:most])
            except BaseException as error:
                await self._drop(connection)
                if found is None or not isinstance(error, httpcore.ConnectionNotAvailable):
                    raise
                # Its server had ended it, and has not looked at the request.

    async def _make(self, place: Place) -> Exchanger:
        stream = await self._backend.connect_tcp(place.host, place.port)
        if place.scheme == "https":
            await stream.start_tls(self._tls, place.host)
        connection: Exchanger = (Http2 if stream.protocol == "h2" else Http1)(place, stream)
        self._open.add(connection)
        return connection

    async def _find(self, place: Place) -> Exchanger | None:
        """The connection to that place that was used last, of those that take a request."""
        while place in self._free:
            connection = self._free[place][-1]
            self._take_out(connection)
            if connection.usable():
                return connection
            await self._drop(connection)
        return None

    async def _release(self, connection: Exchanger, *, clean: bool) -> None:
        """A request is done with it. Not `clean`: it takes no other."""
        if clean and connection in self._open:
            self._free.setdefault(connection.place, []).append(connection)
            self._unused[connection] = self._clock.monotonic()
        else:
            await self._drop(connection)

    async def _sweep(self) -> None:
        """Close what has been unused for too long, or is too much."""
        if not self._unused:
            return
        now = self._clock.monotonic()
        while self._unused:
            connection, since = next(iter(self._unused.items()))
            if now - since <= KEEPALIVE and len(self._unused) <= MAX_UNUSED:
                return
            await self._drop(connection)

    async def _drop(self, connection: Exchanger) -> None:
        self._take_out(connection)
        self._open.discard(connection)
        await connection.aclose()

    def _take_out(self, connection: Exchanger) -> None:
        if self._unused.pop(connection, None) is not None:
            free = self._free[connection.place]
            free.remove(connection)
            if not free:
                del self._free[connection.place]
