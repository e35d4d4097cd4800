"""A link to a broker that hangs up in mid-sentence."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from pamqp import commands, frame

from taskq.broker.rabbitmq.address import Address
from taskq.broker.rabbitmq.connection import Link
from taskq.clock import SystemClock
from taskq.errors import BrokerUnavailable

START = frame.marshal(commands.Connection.Start(0, 9, {"product": "RabbitMQ"}, "PLAIN", "en_US"), 0)
TUNE = frame.marshal(commands.Connection.Tune(2047, 131072, 30), 0)


@pytest.mark.parametrize(
    "answers",
    [None, (), (START[:5],), (START,), (START, TUNE), (START, TUNE[:-3])],
    ids=["at once", "without a word", "in a frame", "after its greeting", "before it opens", "in its second frame"],
)
async def test_a_broker_that_hangs_up_while_logging_in_is_unavailable(
    answers: tuple[bytes, ...] | None, anyio_backend: str
) -> None:
    """Wherever it does: the error is ours, and says what to do."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answers is not None:
            await reader.readexactly(8)  # the client's greeting
        for answer in answers or ():
            writer.write(answer)
            await writer.drain()
            if answer == START:
                await reader.read(1)
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = Link(
        Address.parse(f"amqp://127.0.0.1:{port}/"),
        name="test",
        heartbeat=5,
        connect_timeout=5,
        clock=SystemClock(),
        rng=Random(1),
    )
    try:
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"):
            await link.open()
    finally:
        await link.close()
        server.close()
