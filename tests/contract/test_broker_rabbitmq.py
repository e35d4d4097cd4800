"""The broker contract on RabbitMQ, and what only a broker behind a network can do to us."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiormq
import pytest

from taskq.broker.base import BrokerQueue, Loss, Outgoing
from taskq.broker.rabbitmq import frames
from taskq.broker.rabbitmq.publisher import Publisher, Refused
from taskq.errors import AccessRefused, BrokerUnavailable, PublishUnconfirmed, QueueMissing
from tests.contract.broker_contract import BrokerContract
from tests.contract.broker_lab import FIFO, OPEN, SLOT, BehindAProxy, Inbox, Lab, message, numbered, ready
from tests.proxy import Proxy
from tests.support import PATIENCE, eventually, pulse


def blocked(reason: bytes) -> bytes:
    """A Connection.Blocked frame."""
    return frames.frame(frames.METHOD, 0, b"\x00\x0a\x00\x3c" + bytes((len(reason),)) + reason)


UNBLOCKED = frames.frame(frames.METHOD, 0, b"\x00\x0a\x00\x3d")


def with_login(url: str, login: str, vhost: str = "") -> str:
    parts = urlsplit(url)
    return f"amqp://{login}@{parts.hostname}:{parts.port}/{vhost}"


class TestRabbitMQ(BehindAProxy, BrokerContract):
    @pytest.fixture
    def url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url

    async def test_queue_that_its_cluster_does_not_know_yet(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """Declared and not yet known to be bound, as on a cluster whose nodes come and go: to be tried again."""
        broker = await lab.broker()
        bind = aiormq.Channel.queue_bind

        async def elsewhere(channel: aiormq.Channel, queue: str, *args: Any, **options: Any) -> Any:
            return await bind(channel, f"{queue}.elsewhere", *args, **options)

        monkeypatch.setattr(aiormq.Channel, "queue_bind", elsewhere)
        with pytest.raises(BrokerUnavailable, match="is not known yet"):
            await broker.declare(OPEN)
        monkeypatch.undo()
        await broker.declare(OPEN)
        await broker.publish(message(b"m1"))

    # -- who does not let us in -----------------------------------------------------------------

    async def test_wrong_password(self, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
        """A wrong password is refused at once, naming user and address, and shown nowhere."""
        caplog.set_level(logging.DEBUG)
        broker = lab.make(url=with_login(lab.url, "guest:s3cr3t-pw"))
        async with asyncio.timeout(30):
            with pytest.raises(AccessRefused, match="'guest'") as caught:
                await broker.open()
        lab.brokers.clear()
        assert "s3cr3t-pw" not in str(caught.value) + repr(broker.health()) + caplog.text
        assert str(urlsplit(lab.url).port) in str(caught.value)

    async def test_missing_vhost(self, lab: Lab) -> None:
        """A vhost that is not there is refused by name."""
        broker = lab.make(url=with_login(lab.url, "guest:guest", "no-such-vhost"))
        with pytest.raises(AccessRefused, match="no-such-vhost"):
            await broker.open()
        lab.brokers.clear()

    async def test_nobody_there(self, lab: Lab) -> None:
        """A port where nobody listens fails within the bound, naming address and mend."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        broker = lab.make(url=f"amqp://guest:guest@127.0.0.1:{port}/")
        async with asyncio.timeout(30):
            with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}.*TASKQ_BROKER"):
                await broker.open()
        lab.brokers.clear()

    async def test_unknown_host(self, lab: Lab) -> None:
        """A host name that does not exist fails within the bound."""
        broker = lab.make(url="amqp://guest:guest@host.invalid/", connect_timeout=3)
        async with asyncio.timeout(30):
            with pytest.raises(BrokerUnavailable, match="host.invalid:5672"):
                await broker.open()
        lab.brokers.clear()

    async def test_silent_server(self, lab: Lab) -> None:
        """A server that accepts and never answers is given up after `connect_timeout`."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            broker = lab.make(url=f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}/", connect_timeout=0.5)
            async with asyncio.timeout(30):
                with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.5 s"):
                    await broker.open()
        lab.brokers.clear()

    async def test_server_of_another_protocol(self, lab: Lab) -> None:
        """A server that speaks something else is refused within the bound."""

        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            broker = lab.make(url=f"amqp://guest:guest@127.0.0.1:{port}/", connect_timeout=2)
            async with asyncio.timeout(30):
                with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"):
                    await broker.open()
        lab.brokers.clear()

    async def test_several_hosts(self, lab: Lab, proxy: Proxy) -> None:
        """The first host that answers is used, and another one when it stops."""
        parts = urlsplit(lab.url)
        with socket.create_server(("127.0.0.1", 0)) as server:
            dead = server.getsockname()[1]
        hosts = f"127.0.0.1:{dead},127.0.0.1:{proxy.port},{parts.hostname}:{parts.port}"
        broker = await lab.broker(url=f"amqp://{parts.username}:{parts.password}@{hosts}/")
        await broker.declare(OPEN)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss)
        await proxy.stop()
        await eventually(lambda: inbox.losses == [Loss.CONNECTION])
        await broker.publish(message(b"by the third"))
        await inbox.holds(1)

    async def test_first_messages_go_while_the_others_are_made(self, lab: Lab) -> None:
        """Of a long batch the first have been confirmed before the last is asked for, and others have their turns."""
        broker = await lab.broker()
        await broker.declare(OPEN)
        await broker.publish(message(b"first"))
        confirmed_by: list[int] = []
        published = 0

        async def beside() -> None:
            nonlocal published
            await broker.publish(message(b"beside"))
            published += 1

        def made() -> Iterator[Outgoing]:
            for number in range(20_000):
                confirmed_by.append(published)
                yield message(b"%d" % number)

        async with asyncio.TaskGroup() as group:
            batch = group.create_task(broker.publish_many(made()))
            group.create_task(beside())
        assert batch.result() == [None] * 20_000
        assert confirmed_by[0] == 0 and confirmed_by[-1] == 1

    async def test_batch_that_takes_too_long(self, lab: Lab) -> None:
        """What a call has not sent by its deadline is not sent, and says so."""
        broker = await lab.broker(publish_timeout=0.5)
        await broker.declare(OPEN)
        await broker.publish(message(b"first"))
        loop = asyncio.get_running_loop()
        after_it = loop.time() + 0.6

        def slowly() -> Iterator[Outgoing]:
            for number in range(192):
                while number == 128 and loop.time() < after_it:
                    pass
                yield message(b"%d" % number)

        outcomes = await broker.publish_many(slowly())
        assert len(outcomes) == 192
        assert type(outcomes[-1]) is BrokerUnavailable and "it was not sent" in str(outcomes[-1])
        await ready(await lab.broker(), OPEN, 1 + 191)

    async def test_refused_messages_end_a_channel(self, lab: Lab) -> None:
        """After a refusal publishing goes on over a channel that knows nothing of the old one; nothing is lost by it.

        A channel of RabbitMQ's may take a queue for dead long after it has a new leader.
        """
        broker = await lab.broker()
        await broker.declare(FIFO)
        async with await aio_pika.connect(lab.url) as connection:
            arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
            queue = await (await connection.channel()).declare_queue(
                broker.names.queue(OPEN), durable=True, arguments=arguments
            )
            await queue.bind(*broker.names.route(OPEN))
        await broker.publish(message(b"fills the queue"))
        publisher = broker._publisher
        channel = publisher._channel

        async def refused() -> bool:
            outcome, *_ = await broker.publish_many([message(b"too much")])
            return isinstance(outcome, Refused)

        await eventually(refused)  # the queue counts what it holds a moment later
        sending = [asyncio.create_task(broker.publish(one)) for one in numbered(100, FIFO)]
        await eventually(lambda: channel.lost.done())
        sending += [asyncio.create_task(broker.publish(one)) for one in numbered(100, FIFO)]
        await asyncio.gather(*sending)
        assert publisher._channel is not channel
        await ready(broker, FIFO, 200)

    async def test_refused_at_first(self, lab: Lab) -> None:
        """What a queue refuses at first, as one does that is just being declared, is sent again, in its order.

        A queue that is over its length refuses as well, and it can be told when to stop.
        """
        broker = await lab.broker()
        name = broker.names.queue(OPEN)
        async with await aio_pika.connect(lab.url) as connection:
            arguments = {"x-queue-type": "quorum", "x-max-length": 150, "x-overflow": "reject-publish"}
            channel = await connection.channel()
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            await queue.bind(*broker.names.route(OPEN))

            async def overfull() -> bool:
                try:
                    await channel.default_exchange.publish(aio_pika.Message(b"filler"), name)
                except aio_pika.exceptions.DeliveryError:
                    return True
                return False

            await eventually(overfull)
            sending = [asyncio.create_task(broker.publish_many(numbered(10)))]
            sending += [asyncio.create_task(broker.publish(one)) for one in numbered(100)[10:]]
            publisher = broker._publisher
            await eventually(lambda: publisher._channel.refusals)
            await queue.purge()
            [outcomes, *_] = await asyncio.gather(*sending)
            assert outcomes == [None] * 10
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=200, redeclare=False)
        await inbox.holds(100)
        assert inbox.bodies == [b"%d" % number for number in range(100)]

    async def test_missing_at_first(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """None of a batch overtakes a message of it that missed its queue, though somebody has declared it since."""
        broker, other = await lab.broker(), await lab.broker()
        await broker.declare(FIFO)
        answer = Publisher._answer

        async def slowly(publisher: Publisher, queue: BrokerQueue, deadline: float) -> None:
            await answer(publisher, queue, deadline)
            await other.declare(OPEN)

        monkeypatch.setattr(Publisher, "_answer", slowly)
        outcomes = await broker.publish_many([*numbered(10), *numbered(10, FIFO)])
        assert [type(outcome) for outcome in outcomes] == [QueueMissing] * 10 + [type(None)] * 10
        assert await broker.publish_many(numbered(10)) == [None] * 10

    async def test_closed_while_refused(self, lab: Lab) -> None:
        """A publish that is to be sent again is told so when the broker is closed, rather than left waiting."""
        broker = await lab.broker()
        async with await aio_pika.connect(lab.url) as connection:
            arguments = {"x-queue-type": "quorum", "x-max-length": 0, "x-overflow": "reject-publish"}
            queue = await (await connection.channel()).declare_queue(
                broker.names.queue(OPEN), durable=True, arguments=arguments
            )
            await queue.bind(*broker.names.route(OPEN))
        await broker.publish(message(b"one too many"))
        again = await lab.broker()
        publishing = asyncio.create_task(again.publish(message(b"refused")))
        publisher = again._publisher
        await eventually(lambda: publisher._channel.refusals)
        await again.close()
        with pytest.raises(Refused):
            await publishing

    # -- a network that loses its way -------------------------------------------------------------

    async def test_unconfirmed(self, lab: Lab, proxy: Proxy) -> None:
        """A publish whose confirm does not come in time says that the message may have arrived; it has."""
        broker = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=0.5)
        await broker.declare(OPEN)
        await broker.publish(message(b"confirmed"))
        proxy.silence(to_server=False)
        async with asyncio.timeout(30):
            with pytest.raises(PublishUnconfirmed):
                await broker.publish(message(b"unknown"))
            outcomes = await broker.publish_many(numbered(3))
        assert [type(outcome) for outcome in outcomes] == [PublishUnconfirmed] * 3
        other = await lab.broker()
        await ready(other, OPEN, 5)

    async def test_first_message_unconfirmed(self, lab: Lab, proxy: Proxy) -> None:
        """While the first one for a queue has no answer, those behind it say that they were not sent; nor were they."""
        broker = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=0.5)
        await broker.declare(OPEN)
        proxy.silence(to_server=False)
        async with asyncio.timeout(30):
            first, *others = await broker.publish_many(numbered(3))
            (later,) = await broker.publish_many(numbered(1))
        assert type(first) is PublishUnconfirmed
        for other in (*others, later):
            assert type(other) is BrokerUnavailable and "it was not sent" in str(other)
        await ready(await lab.broker(), OPEN, 1)

    async def test_unconfirmed_by_a_cut(self, lab: Lab, proxy: Proxy) -> None:
        """A connection that breaks before the confirm tells the publisher at once."""
        broker = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=30)
        await broker.declare(OPEN)
        proxy.silence()
        publishing = asyncio.create_task(broker.publish(message(b"unknown")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        proxy.cut()
        async with asyncio.timeout(30):
            with pytest.raises(PublishUnconfirmed):
                await publishing

    async def test_publish_without_connection(self, lab: Lab, proxy: Proxy) -> None:
        """While the broker is away a publish fails within the bound, saying that it was not sent."""
        broker = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=0.5)
        await proxy.stop()
        await eventually(lambda: not broker.health().connected)
        async with asyncio.timeout(30):
            with pytest.raises(BrokerUnavailable, match="not sent") as caught:
                await broker.publish(message(b"never"))
        assert not isinstance(caught.value, PublishUnconfirmed)
        broker._publisher._timeout = PATIENCE
        await proxy.__aenter__()
        await eventually(lambda: broker.health().connected)
        await broker.declare(OPEN)
        await broker.publish(message(b"now"))
        await ready(broker, OPEN, 1)

    async def test_blocked(self, lab: Lab, proxy: Proxy) -> None:
        """While an alarm blocks publishing nothing is sent, health tells why, consuming goes on; it ends by itself."""
        broker, other = await lab.broker(url=self.through(proxy, lab.url), publish_timeout=0.3), await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1)
        proxy.say(blocked(b"low on memory"))
        await eventually(lambda: broker.health().blocked == "low on memory")
        with pytest.raises(BrokerUnavailable, match="low on memory"):
            await broker.publish(message(b"refused"))
        broker._publisher._timeout = PATIENCE
        await other.publish(message(b"from elsewhere"))
        await inbox.holds(1)
        late = asyncio.create_task(broker.publish(message(b"after")))
        proxy.say(UNBLOCKED)
        await late
        await inbox.holds(2)
        assert inbox.bodies == [b"from elsewhere", b"after"] and broker.health().blocked == ""

    async def test_silence(self, lab: Lab, proxy: Proxy) -> None:
        """A connection on which the broker falls silent is given up within seconds and made again."""
        broker, other = await lab.broker(url=self.through(proxy, lab.url), heartbeat=1.0), await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss)
        proxy.silence()
        await eventually(lambda: broker.health().silence > 1)
        await eventually(lambda: inbox.losses == [Loss.CONNECTION])
        assert not broker.health().connected or broker.health().unproven
        proxy.cut()
        proxy.heal()
        await eventually(lambda: broker.health().connected and broker.health().unproven == ())
        await other.publish(message(b"heard again"))
        await inbox.holds(1)
        assert broker.health().silence < 1 + pulse.lost()

    async def test_an_idle_connection_is_proven(self, lab: Lab) -> None:
        """Where nothing happens at all, and so nothing is said, the broker is not taken for silent."""
        broker = await lab.broker(heartbeat=4.0)
        end = asyncio.get_running_loop().time() + 6
        while asyncio.get_running_loop().time() < end:
            assert broker.health().silence < 2 + pulse.lost(), "a worker stops ordered work at half the heartbeat"
            await asyncio.sleep(0.05)

    async def test_hearing_is_no_proof_of_being_heard(self, lab: Lab, proxy: Proxy) -> None:
        """Where only the way to the broker is lost, what it still sends does not end the silence."""
        broker, other = await lab.broker(url=self.through(proxy, lab.url), heartbeat=4.0), await lab.broker()
        await broker.declare(OPEN)
        inbox = Inbox()
        await broker.subscribe(OPEN, inbox, prefetch=100)
        proxy.silence(to_client=False)

        async def heard() -> bool:
            await other.publish(message(b"still here"))
            return bool(inbox.bodies) and broker.health().silence > 2.5

        await eventually(heard)

    async def test_busy_connection_is_alive(self, lab: Lab) -> None:
        """A connection that carries only deliveries and confirms for longer than its heartbeat allows is kept."""
        broker = await lab.broker(heartbeat=1.0)
        await broker.declare(OPEN)
        inbox = Inbox(acknowledge=True)
        await broker.subscribe(OPEN, inbox, prefetch=1, on_loss=inbox.on_loss)
        end = asyncio.get_running_loop().time() + 7  # aiormq gives up after (heartbeat + 1) * 3
        while asyncio.get_running_loop().time() < end:
            await broker.publish(message(b"again"))
        assert inbox.losses == [] and broker.health().connected

    # -- what one broken part must not cost -------------------------------------------------------

    async def test_channels_are_used_again(self, lab: Lab) -> None:
        """Subscribing and closing in turns, each before the other, for ever takes no ever higher channels."""
        broker = await lab.broker()
        await broker.declare(FIFO)
        old = await broker.subscribe(FIFO, Inbox(), prefetch=1)
        for _ in range(40):
            new = await broker.subscribe(FIFO, Inbox(), prefetch=1)
            await old.close()
            old = new
        assert old._channel is not None and old._channel.amqp.number < 10

    async def test_token_while_held(self, lab: Lab) -> None:
        """A token that was published again while the slot was held never gives it a second holder."""
        broker, other = await lab.broker(), await lab.broker()
        holder, next_in_line = Inbox(), Inbox()
        await broker.declare(SLOT)
        held = await broker.subscribe(SLOT, holder, prefetch=1)
        await holder.holds(1)
        await other.declare(SLOT)
        waiting = await other.subscribe(SLOT, next_in_line, prefetch=1)
        await broker.declare(SLOT)
        await ready(broker, SLOT, 1)
        assert next_in_line.deliveries == []
        await held.close()
        await next_in_line.holds(1)
        third = Inbox()
        await broker.subscribe(SLOT, third, prefetch=1)
        await waiting.close()
        await third.holds(1)
        assert len(next_in_line.deliveries) == 1
