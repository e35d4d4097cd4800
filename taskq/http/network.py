"""Connections of deliveries: a name is resolved once, every address is judged, and the judged one is connected to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import httpcore

from taskq.http.guard import Guard

CONNECT_TIMEOUT = 10.0  # seconds for one address; then the name's next one is tried
_HIGH_WATER = 256 * 1024  # bytes that have come and nobody has read


class GuardedBackend:
    """Opens connections. How long anything may take is for its callers to say."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def connect_tcp(self, host: str, port: int) -> Stream:
        """A connection to the first of the host's permitted addresses that accepts it.

        Raises:
            httpcore.ConnectError: none does, or none is permitted.
        """
        failure: httpcore.ConnectError | None = None
        for address in self._permitted(host, await _resolve(host, port)):
            try:
                return await _connect(address, port)
            except httpcore.ConnectError as error:
                failure = error
        assert failure is not None
        raise failure

    def _permitted(self, host: str, addresses: list[str]) -> list[str]:
        permitted = [address for address in addresses if self._guard.permits(address)]
        if not permitted:
            shown = host if host in addresses else f"{host} ({', '.join(addresses[:3])})"
            raise httpcore.ConnectError(
                f"{shown} is no public address, so nothing is delivered to it; "
                "TASKQ_DELIVERY_ALLOW opens networks, such as 127.0.0.0/8,::1"
            )
        return permitted


async def _resolve(host: str, port: int) -> list[str]:
    """Its addresses, each once, in the resolver's order."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError, OverflowError) as error:
        raise httpcore.ConnectError(f"{host[:255]}: cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def _connect(address: str, port: int) -> Stream:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            # An address, so nothing is resolved a second time.
            _, wire = await asyncio.get_running_loop().create_connection(
                _Wire, address, port, flags=socket.AI_NUMERICHOST
            )
    except TimeoutError as error:
        raise httpcore.ConnectError(f"{address} port {port}: no connection within {CONNECT_TIMEOUT:g} s") from error
    except (OSError, OverflowError) as error:
        raise httpcore.ConnectError(f"{address} port {port}: {error}") from error
    return Stream(wire)


class _Wire(asyncio.Protocol):
    """One end of a connection: keeps what came until it is read."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = bytearray()
        self.ended = False
        self._failure: Exception | None = None
        self._paused_reading = False
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] | None = None  # None: may write

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > _HIGH_WATER and not self._paused_reading:
            self.transport.pause_reading()
            self._paused_reading = True
        self._wake_reader()

    def eof_received(self) -> None:
        self.ended = True
        self._wake_reader()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self._failure = error
        self._wake_reader()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writers = []

    def resume_writing(self) -> None:
        writers, self._writers = self._writers, None
        for writer in writers or ():
            if not writer.done():
                writer.set_result(None)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self, limit: int) -> bytes:
        """What has come, at least one byte; empty: nothing will."""
        while not self.received and not self.ended:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if not self.received and self._failure is not None:
            raise self._failure
        data = bytes(self.received[:limit])
        del self.received[:limit]
        if self._paused_reading and not self.ended and len(self.received) <= _HIGH_WATER:
            self.transport.resume_reading()
            self._paused_reading = False
        return data

    async def write(self, data: bytes) -> None:
        """Returns when the network takes more."""
        if self.transport.is_closing():
            raise self._failure or ConnectionResetError("the connection is closed")
        self.transport.write(data)
        if self._writers is not None:
            writer = asyncio.get_running_loop().create_future()
            self._writers.append(writer)
            await writer
            if self._failure is not None:
                raise self._failure


class Stream(httpcore.AsyncNetworkStream):
    """A connection as httpcore wants it."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    @property
    def ended(self) -> bool:
        """Its peer has closed it."""
        return self._wire.ended

    @property
    def silent(self) -> bool:
        """It is open, and of what its peer sent all has been read."""
        return not self._wire.ended and not self._wire.received

    @property
    def protocol(self) -> str | None:
        """Which one the peer chose while TLS began; None: none, or there is no TLS."""
        tls: ssl.SSLObject | None = self.get_extra_info("ssl_object")
        return None if tls is None else tls.selected_alpn_protocol()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._wire.read(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(f"the connection broke: {error}") from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            await self._wire.write(buffer)
        except OSError as error:
            raise httpcore.WriteError(f"the connection broke: {error}") from error

    async def aclose(self) -> None:
        self._wire.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        wire = self._wire
        plain = wire.transport
        if wire.received:  # in the clear: it must not pass for a part of what comes encrypted
            plain.abort()
            raise httpcore.ConnectError(f"{server_hostname} does not speak TLS")
        try:
            wire.transport = await asyncio.get_running_loop().start_tls(
                plain, wire, ssl_context, server_hostname=server_hostname
            )
        except (OSError, ValueError) as error:
            plain.abort()
            raise httpcore.ConnectError(f"TLS with {server_hostname}: {error}") from error
        except BaseException:
            plain.abort()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # of an idle connection: its peer has closed it, or says what nobody asked for
            return self._wire.ended or bool(self._wire.received)
        return self._wire.transport.get_extra_info(info)
