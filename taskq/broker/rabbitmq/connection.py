"""Connections to RabbitMQ: one that stands (`Connection`), and one that is kept up for good (`Link`).

A Link connects to the first host that answers, proves every few seconds that the broker answers on
it, and connects again with jittered backoff when it does not. No robust connections of aio-pika:
after a broker's cancel or a deleted queue they look alive and are deaf.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

import aiormq
from aiormq.abc import AbstractChannel

from taskq.broker.base import BrokerFacts
from taskq.broker.rabbitmq.address import Address
from taskq.broker.rabbitmq.frames import Handler, Splitter
from taskq.broker.topology import facts_of
from taskq.clock import Clock
from taskq.errors import AccessRefused, BrokerUnavailable, InvalidSetting

log = logging.getLogger("taskq.broker")
T = TypeVar("T")

PROBE_INTERVAL = 5.0  # seconds, at most, from one question whether the broker answers to the next
_PROBES = 4  # questions in the time of a heartbeat
_FIRST_BACKOFF = 0.05  # seconds
_MOST_BACKOFF = 5.0  # seconds
ACKNOWLEDGED_WITHIN = 0.002  # seconds: each frame of acknowledgements costs the broker a write to its log
_CLOSE_TIMEOUT = 2.0  # seconds that a goodbye may take
_HIGH_WATER_BYTES = 1 << 20  # what may wait for the socket before publishers wait
_NOT_ALLOWED = 530  # the code of a vhost that is missing or refused


class Unanswered(BrokerUnavailable):
    """The connection stands, and a call on it got no answer in time."""


class _Given(aiormq.TransportFactory):
    """Hands aiormq a transport that is connected already, so that our reader stands in it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams = (reader, writer)

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._streams


class Acknowledger:
    """What has acknowledgements to write."""

    def acknowledgements(self) -> bytes:
        """The frames of all that were made since the last call."""
        raise NotImplementedError


class Connection:
    """A connection that stands until `lost` is done."""

    def __init__(self, amqp: aiormq.Connection, splitter: Splitter, writer: asyncio.StreamWriter, at: str) -> None:
        self.at = at
        self.splitter = splitter
        self.lost = splitter.lost
        self.frame_max = amqp.connection_tune.frame_max
        self.asked: float | None = None  # when the broker was asked whether it answers, if it has not since
        self.facts = _facts(amqp)
        self._amqp = amqp
        self._writer = writer
        self._transport = writer.transport
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._acknowledgers: list[Acknowledger] = []
        self._flushing = False
        self._later: asyncio.TimerHandle | None = None  # the flush that does not wait for anything else to be written
        self._probe: AbstractChannel | None = None
        self._opening: set[int] = set()  # channel numbers that aiormq has yet to write down
        self._leaving: set[asyncio.Task[None]] = set()

    # -- hot writes: one send call a turn of the loop, for all channels together ---------------

    def write(self, data: bytes) -> None:
        """Send whole frames at the end of this turn of the loop."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.flush_soon()

    def write_acknowledgements_of(self, channel: Acknowledger) -> None:
        """Ask the channel for its acknowledgements with whatever is sent next, some milliseconds from now at most."""
        self._acknowledgers.append(channel)
        if not self._flushing and self._later is None:
            self._later = self._loop.call_later(ACKNOWLEDGED_WITHIN, self.flush)

    def flush_soon(self) -> None:
        """Send at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send now what was written since the last time."""
        self._flushing = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        for channel in self._acknowledgers:
            self._pending.append(channel.acknowledgements())
        self._acknowledgers.clear()
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        if data and not self.lost.done() and not self._transport.is_closing():  # uvloop's raises when it is closing
            self._transport.write(data)

    @property
    def congested(self) -> bool:
        """More waits for the socket than it should."""
        if self._transport.is_closing():
            return False
        return self._pending_bytes + self._transport.get_write_buffer_size() > _HIGH_WATER_BYTES

    async def drained(self) -> None:
        """Wait until less waits for the socket, or the connection is lost."""
        self.flush()
        try:
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            self.splitter.fail(f"{type(error).__name__}: {error}")
        await asyncio.sleep(0)  # with a fast socket nothing above gives way to the confirms

    # -- everything else goes by aiormq ---------------------------------------------------------

    async def call(
        self, work: Coroutine[Any, Any, T], *, within: float | None, unwanted: Callable[[T], None] | None = None
    ) -> T:
        """Await a call of aiormq, bounded by time and by the life of this connection.

        aiormq may answer a lost connection with CancelledError, or not at all; neither reaches our tasks.
        A caller that is cancelled does not cancel the call: aiormq would close the channel in mid-sentence and
        give its number away before the broker has, which ends in a 504 and costs the whole connection. It ends
        by itself, and `unwanted` gets its result.

        Raises:
            Unanswered: no answer within that many seconds.
            BrokerUnavailable: the connection is lost.
            aiormq.AMQPError: the broker refused.
        """
        if self.lost.done():
            work.close()
            raise BrokerUnavailable(f"the connection to the broker at {self.at} is lost: {self.lost.result()}")
        self.flush()  # what was written before this call is sent before it
        task = asyncio.create_task(work)
        watched: set[asyncio.Future[Any]] = {task, self.lost}
        try:
            await asyncio.wait(watched, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.add_done_callback(_retrieved if unwanted is None else functools.partial(_handed_on, to=unwanted))
            raise
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is None:
                return task.result()
            if isinstance(error, aiormq.AMQPConnectionError | OSError | EOFError | RuntimeError | TimeoutError):
                raise BrokerUnavailable(f"the broker at {self.at} broke off: {error}") from error
            raise error
        task.cancel()
        task.add_done_callback(_retrieved)
        if self.lost.done():
            raise BrokerUnavailable(f"the connection to the broker at {self.at} is lost: {self.lost.result()}")
        raise Unanswered(f"the broker at {self.at} did not answer within {within} s")

    async def channel(self, *, confirms: bool = False, within: float | None) -> AbstractChannel:
        """Open a channel; for the errors see `call`."""
        # aiormq takes the highest number plus one, which climbs out of the broker's range in a process that
        # closes and opens channels for days.
        number = next(n for n in itertools.count(1) if n not in self._amqp.channels and n not in self._opening)
        if number > (self._amqp.connection_tune.channel_max or 65535):
            raise BrokerUnavailable(
                f"the broker at {self.at} allows no more than {number - 1} channels: raise channel_max"
            )
        self._opening.add(number)
        self.splitter.handlers.pop(number, None)
        return await self.call(self._open_channel(number, confirms), within=within, unwanted=self.leave_channel)

    async def _open_channel(self, number: int, confirms: bool) -> AbstractChannel:
        try:
            return await self._amqp.channel(number, publisher_confirms=confirms)
        finally:
            self._opening.discard(number)

    def take_over(self, channel: AbstractChannel, handler: Handler) -> None:
        """From now on the handler gets the hot frames of the channel."""
        self.splitter.handlers[channel.number] = handler

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Close the channel, within bounds; a lost one is left as it is."""
        if channel.is_closed or self.lost.done():
            return
        try:
            await self.call(channel.close(), within=_CLOSE_TIMEOUT)
        except (BrokerUnavailable, aiormq.AMQPError) as error:
            log.debug("closing a channel to %s: %s", self.at, error)

    def leave_channel(self, channel: AbstractChannel) -> None:
        """Close the channel without waiting: for one whose user is being cancelled."""
        task = asyncio.create_task(self.close_channel(channel))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def answers(self, within: float) -> bool:
        """Whether a channel of this connection gets an answer."""
        if self.asked is None:
            self.asked = self.splitter.now()
        try:
            if self._probe is None or self._probe.is_closed:
                self._probe = await self.channel(within=within)
            await self.call(self._probe.basic_qos(prefetch_count=1), within=within)
        except (BrokerUnavailable, aiormq.AMQPError) as error:
            log.debug("probing %s: %s", self.at, error)
            return False
        self.asked = None
        return True

    async def close(self) -> None:
        """Say goodbye if it stands, and drop the socket."""
        self.flush()
        if not self.lost.done():
            task = asyncio.ensure_future(self._amqp.close())
            await asyncio.wait({task}, timeout=_CLOSE_TIMEOUT)
            task.cancel()
            task.add_done_callback(_retrieved)
        self.splitter.fail("closed")
        self.abort()

    def abort(self) -> None:
        """Drop the socket without a word."""
        self._transport.abort()


class Link:
    """A connection that is made again for as long as the link is open."""

    def __init__(
        self, address: Address, *, name: str, heartbeat: float, connect_timeout: float, clock: Clock, rng: Random
    ) -> None:
        self._address = address
        self._name = name
        self._heartbeat = heartbeat
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._rng = rng
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._next_host = 0
        self._failure = ""
        self.on_lost: Callable[[], None] | None = None

    @property
    def connection(self) -> Connection | None:
        """The connection, if it stands."""
        connection = self._connection
        return None if connection is None or connection.lost.done() else connection

    async def open(self) -> None:
        """Connect; raises as `Broker.open` does."""
        self._connection = await self._connect()
        self._up.set()
        self._keeper = keep(self._keep(self._connection), f"taskq connection {self._name}")

    async def close(self) -> None:
        """End it. Idempotent."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def standing(self, within: float | None = None) -> Connection:
        """The connection, as soon as it stands.

        Raises:
            BrokerUnavailable: not within that many seconds.
        """
        connection = self.connection
        if connection is not None:
            return connection
        try:
            async with asyncio.timeout(within):
                while (connection := self.connection) is None:
                    await self._up.wait()
                    if self.connection is None:  # lost a moment ago; its keeper has yet to say so
                        await asyncio.sleep(0)
        except TimeoutError:
            raise BrokerUnavailable(self._describe(f"no connection within {within} s")) from None
        return connection

    def silence(self) -> float:
        """Seconds for which the broker has owed an answer, 0 if it owes none.

        What it says by itself pays nothing: where only the way to it is lost, its messages still come.
        """
        asked = self._connection.asked if self._connection is not None else None
        return 0.0 if asked is None else self._clock.monotonic() - asked

    async def _keep(self, connection: Connection) -> None:
        while True:
            await self._until_lost(connection)
            self._up.clear()
            log.warning("lost the connection to the broker at %s: %s", connection.at, connection.lost.result())
            connection.abort()
            if self.on_lost is not None:
                self.on_lost()
            connection = self._connection = await self._reconnect()
            self._up.set()
            log.info("connected to the broker at %s again", connection.at)

    async def _until_lost(self, connection: Connection) -> None:
        interval = min(PROBE_INTERVAL, self._heartbeat / _PROBES)
        splitter = connection.splitter
        while not connection.lost.done():
            await asyncio.wait({connection.lost}, timeout=interval)
            # While an alarm blocks publishing, the broker does not read from the connection at all.
            if connection.lost.done() or splitter.blocked:
                continue
            heard = splitter.last_heard
            answered = await connection.answers(self._heartbeat)
            if not answered and not splitter.blocked and splitter.last_heard == heard:
                splitter.fail(f"no answer within {self._heartbeat} s")

    async def _reconnect(self) -> Connection:
        for attempt in itertools.count():
            most = min(_MOST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(attempt, 16))
            await self._clock.sleep(most * (0.5 + self._rng.random() / 2))
            try:
                connection = await self._connect()
                self._failure = ""
                return connection
            except (BrokerUnavailable, InvalidSetting) as error:
                log.log(logging.DEBUG if str(error) == self._failure else logging.WARNING, "%s", error)
                self._failure = str(error)
            except Exception as error:  # of the client library; whatever it is, a link never gives up
                log.exception("connecting to the broker failed as it never should; trying again")
                self._failure = repr(error)
        raise AssertionError("unreachable")

    async def _connect(self) -> Connection:
        """Try each host once, within `connect_timeout` together."""
        hosts = self._address.hosts
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._connect_timeout
        failures: list[BrokerUnavailable] = []
        for tried in range(len(hosts)):
            host, port = hosts[self._next_host % len(hosts)]
            share = (deadline - loop.time()) / (len(hosts) - tried)
            try:
                return await self._connect_to(host, port, max(share, 0.1))
            except BrokerUnavailable as error:
                failures.append(error)
                self._next_host += 1
        refused = next((error for error in failures if isinstance(error, AccessRefused)), None)
        if refused is not None:
            raise refused
        raise failures[0] if len(failures) == 1 else BrokerUnavailable("; ".join(str(error) for error in failures))

    async def _connect_to(self, host: str, port: int, within: float) -> Connection:
        _quiet_aiormq()
        at = f"{host}:{port}"
        splitter: Splitter | None = None
        writer: asyncio.StreamWriter | None = None
        connection: Connection | None = None
        try:
            async with asyncio.timeout(within):
                splitter, writer = await self._dial(host, port)
                url = self._address.url(host, port, heartbeat=max(1, round(self._heartbeat)), name=self._name)
                amqp = await _shake_hands(url, splitter, writer)
                connection = Connection(amqp, splitter, writer, at)
                return connection
        except TimeoutError as error:
            raise self._unreachable(at, f"no answer within {within:.1f} s") from error
        except (aiormq.AMQPError, OSError, EOFError, ValueError) as error:
            raise self._translated(error, at, splitter.close_code if splitter else 0) from error
        finally:
            if writer is not None and connection is None:
                writer.transport.abort()

    def _translated(self, error: Exception, at: str, close_code: int) -> BrokerUnavailable:
        """Our error for one of logging in. aiormq takes a refused vhost for an invalid frame, so the code decides."""
        if close_code == _NOT_ALLOWED:
            return AccessRefused(
                f"the broker at {at} refused vhost {self._address.vhost!r} to user {self._address.user!r}: "
                "check the vhost in the broker's URL and the user's permissions"
            )
        if isinstance(error, aiormq.ProbableAuthenticationError | aiormq.AuthenticationError):
            return AccessRefused(
                f"the broker at {at} refused user {self._address.user!r} or its password: "
                "check both in the broker's URL"
            )
        return self._unreachable(at, str(error) or type(error).__name__)

    async def _dial(self, host: str, port: int) -> tuple[Splitter, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        splitter = Splitter(self._clock.monotonic)
        protocol = asyncio.StreamReaderProtocol(splitter, loop=loop)
        context = self._address.context()
        transport, _ = await loop.create_connection(
            lambda: protocol, host, port, ssl=context, server_hostname=host if context else None
        )
        return splitter, asyncio.StreamWriter(transport, protocol, splitter, loop)

    def _describe(self, what: str) -> str:
        return f"the broker at {self._address} cannot be used: {what}{'; ' if self._failure else ''}{self._failure}"

    @staticmethod
    def _unreachable(at: str, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"no RabbitMQ answers at {at} ({why}): start one there, or set the broker's URL (TASKQ_BROKER)"
        )


async def _shake_hands(url: str, splitter: Splitter, writer: asyncio.StreamWriter) -> aiormq.Connection:
    """Log in on a dialled socket. Cancelled, it drops the socket first: aiormq would wait for TLS to say goodbye."""

    async def connect() -> aiormq.Connection:
        return await aiormq.connect(url, transport_factory=_Given(splitter, writer))

    task = asyncio.create_task(connect())
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        writer.transport.abort()
        task.cancel()
        task.add_done_callback(_retrieved)
        raise
    # aiormq answers a broker that hangs up in the middle of the handshake with either of these.
    if task.cancelled() or isinstance(task.exception(), StopAsyncIteration):
        raise ConnectionError("the broker hung up while logging in")
    return task.result()


def keep(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run in the background until cancelled; that it failed, which only a bug makes it do, is logged."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s failed and is not kept up any more", task.get_name(), exc_info=error)

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    return task


def _handed_on(task: asyncio.Task[T], *, to: Callable[[T], None]) -> None:
    """Give the result of a call whose caller was cancelled to whoever clears it away."""
    _retrieved(task)
    if not task.cancelled() and task.exception() is None:
        to(task.result())


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Read the outcome of a call that nobody waits for any more, so that asyncio does not warn of it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("a call that was given up ended with %r", error)


def _facts(amqp: aiormq.Connection) -> BrokerFacts:
    def text(name: str) -> str:
        value = amqp.server_properties.get(name, "")
        return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)

    return facts_of(text("product"), text("version"))


def _quiet_aiormq() -> None:
    """aiormq logs each lost connection with a traceback; the link says it in a line. A level set by the user stands."""
    logger = logging.getLogger("aiormq")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
