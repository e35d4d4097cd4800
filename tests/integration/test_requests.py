"""Messages for URLs, from their publish to their outcome and its callbacks, on either broker."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from taskq import TaskQ
from taskq.api.publisher import Order, Publisher, Sent
from taskq.dispatch import control
from taskq.errors import InvalidArguments, InvalidRequest, InvalidSchedule, PayloadTooLarge, UnknownTask
from taskq.http.request import Request
from taskq.outcome import Status
from taskq.queue import Queue
from taskq.schedule import make_schedule, plan_of, ticks_of
from taskq.store.base import DeadFilter
from taskq.store.gateway import Accepted, Endpoint, Parcel, RequestFilter
from tests.endpoint import Answer
from tests.endpoint import Endpoint as Destination
from tests.integration.room import Room
from tests.support import eventually

LOOPBACK = {"delivery_allow": "127.0.0.0/8"}


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination() as endpoint:
        yield endpoint


@pytest.fixture
async def publisher(room: Room) -> AsyncIterator[Publisher]:
    async for one in _publisher(room.app):
        yield one


async def _publisher(app: TaskQ) -> AsyncIterator[Publisher]:
    client = app.client()
    store, broker = await client.store(), await client.broker()
    assert client.dispatcher is not None
    publisher = Publisher(app=app, store=store, broker=broker, dispatcher=client.dispatcher)
    await publisher.prepare()
    yield publisher
    await publisher.close()


def order(destination: str, body: bytes = b"", queue: str | None = None, **settings: str) -> Order:
    """`retry_delay="50"` stands for the header Upstash-Retry-Delay: 50."""
    headers = tuple(("Upstash-" + name.replace("_", "-"), value) for name, value in settings.items())
    return Order(destination, headers, (), body, queue=queue)


async def send(publisher: Publisher, what: Order) -> str:
    [(_, accepted)] = (await publisher.send(what)).messages
    assert not accepted.duplicate
    return accepted.message_id


async def final(room: Room, message_id: str, status: Status) -> None:
    store = await room.store()

    async def check() -> bool:
        record = await store.get(message_id)
        assert record is not None
        assert record.status is status, record
        return True

    await eventually(check)


async def states(room: Room, message_id: str) -> list[str]:
    return [line.state for line in await (await room.store()).history(message_id)]


async def test_a_body_arrives_byte_for_byte_and_is_recorded(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    await room.worker(settings=LOOPBACK)
    body = bytes(range(256)) * 4000
    sent = await send(publisher, order(destination.url("/a/b?x=%20&y=ü".replace("ü", "%C3%BC")), body, method="PUT"))
    [seen] = await destination.until("/a/b")
    assert (seen.method, seen.body, seen.query) == ("PUT", body, "x=%20&y=%C3%BC")
    assert seen.header("upstash-message-id") == sent
    await final(room, sent, Status.SUCCEEDED)
    assert await states(room, sent) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_failures_are_retried_and_end_among_the_dead_letters(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    await room.worker(settings=LOOPBACK)
    destination.answer("/f", Answer(503, {"X-Why": "busy"}, b"no"))
    sent = await send(publisher, order(destination.url("/f"), retries="2", retry_delay="20"))
    await final(room, sent, Status.FAILED)
    assert [seen.header("upstash-retried") for seen in destination.requests("/f")] == ["0", "1", "2"]
    letter = await room.dead(message_id=sent)
    assert (letter.reason, letter.attempts) == ("failed", 3)
    store = await room.store()
    assert (await store.count_dead(DeadFilter(statuses=[503]))) == 1
    assert (await store.count_dead(DeadFilter(statuses=[500]))) == 0
    expected = ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED"]
    assert await states(room, sent) == expected


async def test_the_destination_says_when_and_whether_to_try_again(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    await room.worker(settings=LOOPBACK)
    destination.answer("/later", Answer(429, {"Retry-After": "0"}), 200)
    later = await send(publisher, order(destination.url("/later"), retry_delay="3600000"))
    await final(room, later, Status.SUCCEEDED)
    destination.answer("/never", Answer(489, {"Upstash-NonRetryable-Error": "true"}))
    never = await send(publisher, order(destination.url("/never"), retries="5", retry_delay="10"))
    await final(room, never, Status.FAILED)
    assert len(destination.requests("/never")) == 1
    assert (await room.dead(message_id=never)).reason == "non-retryable"


async def test_a_private_address_is_not_called(room: Room, publisher: Publisher, destination: Destination) -> None:
    await room.worker()
    sent = await send(publisher, order(destination.url("/private"), retries="0"))
    await final(room, sent, Status.FAILED)
    letter = await room.dead(message_id=sent)
    assert letter.failure is not None and "127.0.0.1" in letter.failure.message
    assert destination.requests() == []


async def test_callbacks_follow_every_attempt_and_the_failure_callback_the_last(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    await room.worker(settings=LOOPBACK)
    destination.answer("/f", Answer(500, body=b"\xff\x00"), Answer(201, body=b"ok"))
    settings = {"callback": destination.url("/cb"), "failure_callback": destination.url("/fcb")}
    sent = await send(publisher, order(destination.url("/f"), b"source", retry_delay="20", **settings))
    seen = [one.json() for one in await destination.until("/cb", 2)]
    told = sorted((one["retried"], one["status"], base64.b64decode(one["body"])) for one in seen)
    assert told == [(0, 500, b"\xff\x00"), (1, 201, b"ok")]
    assert {one["sourceMessageId"] for one in seen} == {sent}
    assert base64.b64decode(seen[0]["sourceBody"]) == b"source"
    assert destination.requests("/fcb") == []
    destination.answer("/f", 500)
    dies = await send(publisher, order(destination.url("/f"), retries="1", retry_delay="20", **settings))
    [failure] = await destination.until("/fcb")
    letter = await room.dead(message_id=dies)
    assert (failure.json()["dlqId"], failure.json()["retried"]) == (letter.id, 1)
    assert len(await destination.until("/cb", 4)) == 4


async def test_a_fifo_queue_waits_for_retries_and_callbacks(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    """The next begins when the one before has ended, its callback's retries included."""
    for _ in range(2):
        await room.worker(settings=LOOPBACK)
    destination.answer("/first", 500, 200)
    destination.answer("/cb", 500, 500, 200)
    settings = {"callback": destination.url("/cb"), "callback_retry_delay": "20", "retry_delay": "20"}
    first = await send(publisher, order(destination.url("/first"), queue="line", **settings))
    second = await send(publisher, order(destination.url("/second"), queue="line"))
    await destination.until("/second")
    store = await room.store()
    assert not await store.unfinished_callbacks(first)
    paths = [seen.path for seen in destination.requests()]
    assert paths.index("/second") == len(paths) - 1
    assert paths.count("/first") == 2 and paths.count("/cb") == 4  # one callback an attempt, the first of them retried
    await final(room, second, Status.SUCCEEDED)


async def test_a_head_that_waits_for_its_callback_survives_its_worker(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    """Another worker gets the head, finds its outcome, and goes on waiting: the order holds."""
    worker = await room.worker(settings=LOOPBACK)
    with destination.holding("/cb"):
        settings = {"callback": destination.url("/cb")}
        first = await send(publisher, order(destination.url("/first"), queue="line", **settings))
        second = await send(publisher, order(destination.url("/second"), queue="line"))
        await destination.until("/cb")
        await final(room, first, Status.SUCCEEDED)
        await room.worker(settings=LOOPBACK)
        await room.stop(worker, now=True)
        other = await send(publisher, order(destination.url("/other")))
        await final(room, other, Status.SUCCEEDED)
        assert destination.requests("/second") == []
    await destination.until("/second")
    await final(room, second, Status.SUCCEEDED)
    assert len(destination.requests("/first")) == 1


async def test_members_of_a_group_are_called_and_retried_each_by_itself(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    await room.worker(settings=LOOPBACK)
    store = await room.store()
    await store.add_endpoints("g", [Endpoint(destination.url("/one")), Endpoint(destination.url("/two"), "second")])
    await store.set_group_headers("g", (("X-Default", "d"), ("X-Own", "d")))
    destination.answer("/two", 500, 200)
    sent = await publisher.send(order("g", b"x", retry_delay="20", forward_x_own="mine"))
    assert sent.group and [url for url, _ in sent.messages] == [destination.url("/one"), destination.url("/two")]
    [one], two = await destination.until("/one"), await destination.until("/two", 2)
    assert (one.header("x-default"), one.header("x-own"), one.header("upstash-topic-name")) == ("d", "mine", "g")
    assert [seen.header("upstash-retried") for seen in two] == ["0", "1"]
    assert len(destination.requests("/one")) == 1


async def test_a_task_is_a_destination(room: Room, publisher: Publisher, destination: Destination) -> None:
    @room.app.task(name="add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @room.app.task(name="bytes")
    def size(data: bytes) -> int:
        return len(data)

    await room.worker(settings=LOOPBACK)
    for name, body, result in (
        ("add", b'{"a": 1, "b": 41}', 42),
        ("add", b"[1]", 2),
        ("bytes", b"\x00\xff", 2),
    ):
        destination.forget()
        await send(publisher, order(f"task://{name}", body, callback=destination.url("/cb")))
        [seen] = await destination.until("/cb")
        assert json.loads(base64.b64decode(seen.json()["body"])) == result
    with pytest.raises(UnknownTask, match="nobody"):
        await publisher.send(order("task://nobody"))
    with pytest.raises(InvalidArguments):
        await publisher.send(order("task://add", b'{"c": 1}'))


async def test_duplicates_are_not_sent(room: Room, publisher: Publisher, destination: Destination) -> None:
    await room.worker(settings=LOOPBACK)
    first = await send(publisher, order(destination.url("/d"), b"x", deduplication_id="one"))
    again = await publisher.send(order(destination.url("/d"), b"y", deduplication_id="one"))
    assert again.messages == ((destination.url("/d"), Accepted(first, duplicate=True)),) and again.duplicate
    content = {"content_based_deduplication": "True"}
    same = [await publisher.send(order(destination.url("/d"), b"x", **content)) for _ in range(2)]
    other = await publisher.send(order(destination.url("/d"), b"z", **content))
    assert [sent.duplicate for sent in (*same, other)] == [False, True, False]
    assert [seen.body for seen in await destination.until("/d", 3)].count(b"x") == 2
    assert b"y" not in [seen.body for seen in destination.requests("/d")]


async def test_a_waiting_request_is_cancelled(room: Room, publisher: Publisher, destination: Destination) -> None:
    await room.worker(settings=LOOPBACK)
    sent = await send(publisher, order(destination.url("/never"), delay="1h"))
    store = await room.store()

    async def waits() -> bool:
        record = await store.get(sent)
        return record is not None and record.status is Status.WAITING and (await store.next_due()) is not None

    await eventually(waits)
    await room.app.client().cancel(sent)
    await final(room, sent, Status.CANCELLED)
    found = await states(room, sent)
    assert found[0] == "CREATED" and found[-1] == "CANCELED"
    assert (await store.list_requests(RequestFilter(unfinished=True))).items == []


async def test_rotated_keys_sign_at_once(room: Room, publisher: Publisher, destination: Destination) -> None:
    await room.worker(settings=LOOPBACK)
    store = await room.store()
    before = await store.signing_keys()
    await send(publisher, order(destination.url("/k")))
    await destination.until("/k")
    after = await store.rotate_signing_keys()
    assert after.current == before.next
    (await room.app.client().broker()).broadcast(control({"keys": True}))
    from qstash import Receiver

    receiver = Receiver(current_signing_key=after.current, next_signing_key="sig_none")

    async def signed_by_the_new_one() -> bool:
        destination.forget()
        await send(publisher, order(destination.url("/k"), b"body"))
        [seen] = await destination.until("/k")
        receiver.verify(signature=seen.header("upstash-signature") or "", body="body", url=destination.url("/k"))
        return True

    await signed_by_the_new_one()


async def test_what_cannot_be_sent_is_refused_and_nothing_stored(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    with pytest.raises(PayloadTooLarge):
        await publisher.send(order(destination.url("/"), b"x" * (2**20 + 1)))
    with pytest.raises(InvalidRequest, match="TASKQ_LLM_URL"):
        await publisher.send(order("api/llm", callback=destination.url("/")))
    with pytest.raises(InvalidRequest, match="Retries"):
        await publisher.send(order(destination.url("/"), retries="-1"))
    store = await room.store()
    assert (await store.list_requests(RequestFilter())).items == []
    assert (await store.table_sizes())["taskq_outbox"] == 0


async def test_publishes_at_once_share_transactions_and_all_arrive(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    await room.worker(settings=LOOPBACK)
    bodies = [str(number).encode() for number in range(100)]
    await asyncio.gather(*(publisher.send(order(destination.url("/many"), body)) for body in bodies))
    seen = await destination.until("/many", 100)
    assert sorted(one.body for one in seen) == sorted(bodies)


async def test_an_accepted_message_whose_publisher_died_is_sent(
    room: Room, publisher: Publisher, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded and never published: the keeper publishes it, once."""
    monkeypatch.setattr("taskq.api.publisher.REPAIR_AFTER", -4.5)

    async def dies(messages: object) -> list[None]:
        return [None for _ in messages]  # type: ignore[attr-defined]

    monkeypatch.setattr(publisher._dispatcher, "send_many", dies)
    monkeypatch.setattr(publisher._noting, "submit", lambda *_: None)
    sent = await send(publisher, order(destination.url("/late")))
    await room.worker(settings=LOOPBACK)
    await final(room, sent, Status.SUCCEEDED)
    assert len(destination.requests("/late")) == 1


async def test_a_queue_made_by_enqueue_keeps_what_was_set(room: Room, publisher: Publisher) -> None:
    store = await room.store()
    await store.ensure_queue(Queue("wide", parallelism=5), origin="operator")
    await send(publisher, order("https://example.com", queue="wide"))
    await send(publisher, order("https://example.com", queue="narrow"))
    wide, narrow = await store.get_queue("wide"), await store.get_queue("narrow")
    assert wide is not None and wide.parallelism == 5
    assert narrow is not None and (narrow.parallelism, narrow.born_fifo, narrow.origin) == (1, True, "operator")
    assert await store.lag(["wide", "narrow"]) == {"wide": 1, "narrow": 1}


async def test_what_is_refused_makes_no_queue(room: Room, publisher: Publisher) -> None:
    with pytest.raises(InvalidRequest):
        await publisher.send(order("https://example.com", queue="new", retries="many"))
    assert await (await room.store()).get_queue("new") is None


async def test_code_may_schedule_a_url(room: Room, publisher: Publisher, destination: Destination) -> None:
    url = destination.url("/tick")
    options: dict[str, object] = {"every": 1.0, "max_runs": 2, "headers": {"Upstash-Method": "PUT"}}
    room.app.schedule("ping", url, body="up?", **options)  # type: ignore[arg-type]
    twin = room.twin(**LOOPBACK)
    twin.scheduled = room.app.scheduled
    await room.worker(app=twin, beat=True)
    seen = await destination.until("/tick", 2)
    assert {(one.method, one.body, one.header("upstash-schedule-id")) for one in seen} == {("PUT", b"up?", "ping")}
    for bad in ({"args": [1]}, {"headers": {"Upstash-Retries": "x"}}, {"headers": 5}, {"body": 5}):
        with pytest.raises(InvalidSchedule, match="bad"):
            room.app.schedule("bad", url, every=1.0, **bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidSchedule, match="ftp"):
        room.app.schedule("bad", "ftp://example.com", every=1.0)


async def test_queues_of_taskqs_own_are_not_enqueued_to(room: Room, publisher: Publisher) -> None:
    for name in ("http", "callbacks"):
        with pytest.raises(InvalidRequest, match=name):
            await publisher.send(order("https://example.com", queue=name))


async def test_a_message_that_the_store_refuses_stops_no_other(
    room: Room, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await room.store()
    accept = store.accept

    async def refuses(parcels: Sequence[Parcel]) -> list[Accepted]:
        if any(b"bad" in parcel.message.payload for parcel in parcels):
            raise RuntimeError("no such row")
        return await accept(parcels)

    monkeypatch.setattr(publisher._store, "accept", refuses)
    bodies = [b"good", b"bad", b"fine"]
    sent = await asyncio.gather(
        *(publisher.send(order("https://example.com", body)) for body in bodies), return_exceptions=True
    )
    assert [type(one) for one in sent] == [Sent, RuntimeError, Sent]
    assert isinstance(await publisher.send(order("https://example.com")), Sent)


async def test_a_scheduled_group_forwards_its_headers_and_not_its_settings(
    room: Room, publisher: Publisher, destination: Destination
) -> None:
    store = await room.store()
    await store.add_endpoints("g", [Endpoint(destination.url("/member"))])
    template = await publisher.template(order("g", b"x"), "s")
    schedule = make_schedule("s", plan_of("s", {"every": 60.0}), template, "allow")
    headers = (("X-Default", "d"), ("Upstash-Forward-X-Other", "o"), ("Upstash-Retries", "1"))
    group = await store.set_group_headers("g", headers)
    now = await store.now()
    [tick] = ticks_of(schedule, now, now, repair_at=now, group=group)
    request = Request.decode(tick.message.payload)
    assert (request.url, request.topic) == (destination.url("/member"), "g")
    assert {name.lower(): value for name, value in request.headers} == {"x-default": "d", "x-other": "o"}
