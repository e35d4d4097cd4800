"""`taskq api` as a process: uvicorn, a socket that says where it is, signals, exit codes."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from taskq.api.app import make_api
from taskq.api.protocol import MAX_HEAD_BYTES, PROTOCOL
from taskq.app import TaskQ
from taskq.collector import spare_what_stays
from taskq.errors import BrokerUnavailable, InvalidSetting, StoreUnavailable

logger = logging.getLogger("taskq.api")

EXIT_UNAVAILABLE = 69  # the broker or the store did not answer at start
BACKLOG = 2048  # connections that wait to be accepted
KEEP_ALIVE = 75  # seconds


def listen(app: TaskQ, host: str, port: int) -> socket.socket:
    """The socket to serve on; port 0: any that is free.

    Raises:
        InvalidSetting: it cannot be had, or would be open to others without a token.
    """
    if app.settings.api_token is None and not _is_loopback(host):
        raise InvalidSetting(
            f"--host {host} can be reached by others, and there is no token: set TASKQ_API_TOKEN, or take 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidSetting(f"--host {host} --port {port}: {error.strerror or error}; choose another") from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(listener: socket.socket) -> str:
    """Where it can be reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: TaskQ) -> uvicorn.Server:
    """A server of the app's API; `serve(sockets=[…])` runs it in the present event loop, and closes the app."""
    return uvicorn.Server(_config(app, closes=True))


class _Host(uvicorn.Server):
    """A server that has its process for itself."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        spare_what_stays()


def _config(app: TaskQ, *, closes: bool) -> uvicorn.Config:
    return uvicorn.Config(
        make_api(app, closes=closes),
        lifespan="on",
        access_log=False,  # it would show tokens that are given in the query
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(app.settings.grace) or 1,
        loop=app.settings.loop,
        http=PROTOCOL,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


class Guest(uvicorn.Server):
    """A server in an event loop that is another's, as the signals are, and the app, which stays open."""

    def __init__(self, app: TaskQ) -> None:
        super().__init__(_config(app, closes=False))
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its coming and going is told by its host

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield

    @asynccontextmanager
    async def serving(self, listener: socket.socket, *, once: asyncio.Event) -> AsyncIterator[None]:
        """Serve from when `once` is set to the end of the block; who connects earlier waits."""

        async def serve() -> None:
            await once.wait()
            await self.serve(sockets=[listener])

        async with asyncio.TaskGroup() as group:
            work = group.create_task(serve())
            try:
                yield
            finally:
                self.should_exit = True
                if not once.is_set():
                    work.cancel()
                await asyncio.wait({work})


def serve(app: TaskQ, host: str, port: int) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code."""
    listener = listen(app, host, port)
    with listener:
        logger.info("listening on %s", url_of(listener))
        server = _Host(_config(app, closes=True))
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what ended it once more when it has ended
            signal.signal(number, server.handle_exit)
        try:
            server.run(sockets=[listener])
        except (BrokerUnavailable, StoreUnavailable) as error:
            logger.critical("%s", error)
            return EXIT_UNAVAILABLE
    return 0 if server.started else EXIT_UNAVAILABLE
