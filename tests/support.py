"""What tests of several kinds need."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], T | Awaitable[T]], timeout: float = 10) -> T:  # noqa: ASYNC109 - names the bound
    """Wait until the check gives something true, and return it; an AssertionError of the check counts as false.

    Fails with the check's own last word after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        value = None
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
        except AssertionError as error:
            failure = error
        if failure is None and value:
            return value
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not within {timeout} s: last seen {value!r}")
        await asyncio.sleep(0.01)


class Proxy:
    """A TCP proxy in front of a server that can go silent, cut its connections, and speak for the server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_client = asyncio.Event()
        self._to_server = asyncio.Event()
        self.heal()
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections from now on, and cut those that stand."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Pass nothing on, and close nothing: a network that has lost its way."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def heal(self) -> None:
        """Pass everything on again."""
        self._to_server.set()
        self._to_client.set()

    def cut(self) -> None:
        """Drop the connections that stand."""
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()

    def say(self, data: bytes) -> None:
        """Send to every client, as if the server had."""
        for writer in self._clients:
            writer.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._clients.append(writer)
        for task in (
            asyncio.create_task(self._pump(reader, server_writer, self._to_server)),
            asyncio.create_task(self._pump(server_reader, writer, self._to_client)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event) -> None:
        try:
            while data := await reader.read(65536):
                await open_.wait()
                if writer.is_closing():
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side has gone: so does the other
        finally:
            writer.transport.abort()
