"""Reading messages back, and cancelling them, over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from taskq.outcome import Status
from tests.integration.api.reading.desk import Desk
from tests.support import eventually

EVERYWHERE = pytest.mark.parametrize("desk", ["memory", "servers"], indirect=True)


@EVERYWHERE
async def test_a_message_is_read_back_right_after_it_was_published(desk: Desk) -> None:
    """Everything that was said of it is there, before and after its delivery."""
    sent = await desk.publish(
        "/in?a=1",
        b"\xc3\xa4",
        Upstash_Forward_X="1",
        Upstash_Retries="5",
        Upstash_Label="one,two",
        caller_ip="10.0.0.1",
    )
    view = await desk.get(f"/v2/messages/{sent.id}")
    assert view["url"] == desk.endpoint.url("/in?a=1")
    assert (view["body"], view["header"]) == ("\u00e4", {"Content-Type": ["text/plain"], "X": ["1"]})
    assert (view["maxRetries"], view["labels"], view["callerIP"]) == (5, ["one", "two"], "10.0.0.1")
    await desk.worker()
    await desk.endpoint.until("/in")
    assert await desk.get(f"/v2/messages/{sent.id}") == view


async def test_a_message_that_ended_is_gone_a_minute_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 404 then, to who reads it and to who cancels it; before, a cancel finds nothing left to cancel."""
    from datetime import timedelta

    from taskq.api import reading

    sent = await desk.publish()
    await desk.worker()
    await eventually(lambda: ended(desk, sent.id))
    assert (await desk.get(f"/v2/messages/{sent.id}"))["messageId"] == sent.id
    assert await desk.answered("DELETE", f"/v2/messages/{sent.id}", 200) == {"cancelled": 0}
    monkeypatch.setattr(reading, "SHOWN_FOR", timedelta(0))
    assert sent.id in await desk.refused("GET", f"/v2/messages/{sent.id}", 404)
    assert sent.id in await desk.refused("DELETE", f"/v2/messages/{sent.id}", 404)


async def ended(desk: Desk, message_id: str) -> Status | None:
    record = await (await desk.store()).get(message_id)
    return record.status if record is not None and record.status.final else None


@pytest.mark.parametrize("path", ["msg_unknown", "%00", "a" * 300, "%E2%82%AC"])
async def test_unknown_messages_are_not_found(desk: Desk, path: str) -> None:
    """To read or to cancel one that is not there answers 404, and leaves nothing behind."""
    assert "not found" in await desk.refused("GET", f"/v2/messages/{path}", 404)
    assert "not found" in await desk.refused("DELETE", f"/v2/messages/{path}", 404)


async def test_a_python_tasks_message_is_none_of_the_protocols(desk: Desk) -> None:
    """It is neither shown nor cancelled, by its id or with all others."""

    @desk.room.app.task(name="add")
    async def add(number: int) -> int:
        return number

    handle = await add.options(delay=60).enqueue_async(1)
    assert "not found" in await desk.refused("GET", f"/v2/messages/{handle.id}", 404)
    assert "not found" in await desk.refused("DELETE", f"/v2/messages/{handle.id}", 404)
    assert await desk.answered("DELETE", "/v2/messages", 200) == {"cancelled": 0}
    assert await desk.answered("DELETE", "/v2/messages", 200, params={"messageIds": handle.id}) == {"cancelled": 0}


@EVERYWHERE
async def test_a_message_that_waits_is_cancelled_and_gone(desk: Desk) -> None:
    """It is answered 404 at once, and never delivered; its history says what became of it."""
    await desk.worker()
    sent = await desk.publish(Upstash_Delay="1h")
    await eventually(lambda: waits(desk, sent.id))
    assert await desk.answered("DELETE", f"/v2/messages/{sent.id}", 200) == {"cancelled": 1}
    assert "not found" in await desk.refused("GET", f"/v2/messages/{sent.id}", 404)
    events = (await desk.get("/v2/events", messageId=sent.id))["events"]
    assert [event["state"] for event in events] == ["CANCELED", "CANCEL_REQUESTED", "CREATED"]
    assert desk.endpoint.requests() == []


async def waits(desk: Desk, message_id: str) -> bool:
    """Booked in the waiting room."""
    page = await (await desk.store()).waiting()
    return message_id in {row.message.id for row in page.items}


@EVERYWHERE
async def test_a_message_between_its_retries_is_cancelled(desk: Desk) -> None:
    """Its next attempt never comes, and it is no dead letter."""
    desk.endpoint.answer("/in", 500)
    await desk.worker()
    sent = await desk.publish(Upstash_Retry_Delay="3600000")
    await desk.endpoint.until("/in")
    await eventually(lambda: waits(desk, sent.id))
    assert await desk.answered("DELETE", f"/v2/messages/{sent.id}", 200) == {"cancelled": 1}
    await eventually(lambda: ended(desk, sent.id))
    assert (await desk.get("/v2/dlq"))["messages"] == []
    assert len(desk.endpoint.requests("/in")) == 1


@EVERYWHERE
async def test_a_message_in_flight_is_cancelled(desk: Desk) -> None:
    """The attempt is broken off, and no other follows."""
    await desk.worker()
    with desk.endpoint.holding("/in"):
        sent = await desk.publish()
        await desk.endpoint.until("/in")
        assert await desk.answered("DELETE", f"/v2/messages/{sent.id}", 200) == {"cancelled": 1}
        assert await eventually(lambda: ended(desk, sent.id)) is Status.CANCELLED
    events = (await desk.get("/v2/logs", messageId=sent.id))["logs"]
    assert [event["state"] for event in events][:2] == ["CANCELLED", "CANCEL_REQUESTED"]


@EVERYWHERE
async def test_many_are_cancelled_by_their_ids(desk: Desk) -> None:
    """From a JSON body and from the query, repeated or joined; unknown ids and filters beside them do not count."""
    sent = [(await desk.publish(Upstash_Delay="1h")).id for _ in range(6)]
    call = {"messageIds": [*sent[:2], "msg_unknown", sent[0]]}
    assert await desk.answered("DELETE", "/v2/messages", 200, json=call) == {"cancelled": 2}
    query = {"messageIds": [sent[2], sent[3]], "label": "none"}
    assert await desk.answered("DELETE", "/v2/messages", 200, params=query) == {"cancelled": 2}
    query = {"messageIds": f"{sent[4]},{sent[5]}"}
    assert await desk.answered("DELETE", "/v2/messages", 200, params=query) == {"cancelled": 2}
    await desk.worker()
    for one in sent:
        assert await eventually(lambda one=one: ended(desk, one)) is Status.CANCELLED
    assert await desk.answered("DELETE", "/v2/messages", 200, json=call) == {"cancelled": 0}


async def test_an_empty_list_of_ids_cancels_nothing(desk: Desk) -> None:
    """No id at all does not mean every message."""
    await desk.publish(Upstash_Delay="1h")
    assert await desk.answered("DELETE", "/v2/messages", 200, json={"messageIds": []}) == {"cancelled": 0}
    assert "empty" in await desk.refused("DELETE", "/v2/messages", 400, params={"messageIds": ""})
    assert "lable" in await desk.refused("DELETE", "/v2/messages", 400, params={"lable": "x"})
    assert "JSON" in await desk.refused("DELETE", "/v2/messages", 400, content=b"{")
    assert "count" in await desk.refused("DELETE", "/v2/messages", 400, params={"count": 501})
    many = {"messageIds": [f"msg_{number}" for number in range(1200)]}
    assert await desk.answered("DELETE", "/v2/messages", 200, json=many) == {"cancelled": 0}
    assert "toDate" in await desk.refused("DELETE", "/v2/messages", 400, json=many, params={"toDate": "now"})
    assert await desk.answered("DELETE", "/v2/messages", 200) == {"cancelled": 1}


@EVERYWHERE
async def test_filters_choose_what_is_cancelled(desk: Desk) -> None:
    """Each filter alone, and several together, mean the messages that they describe; the newest go first."""
    delay = {"Upstash_Delay": "1h"}
    first = await desk.publish("https://a.example/x?q=1", **delay, Upstash_Label="red,big", caller_ip="10.0.0.1")
    second = await desk.publish("https://b.example/y", **delay, Upstash_Label="blue", topic="group", endpoint="e")
    third = await desk.publish("https://a.example/y", **delay, queue_name="orders", schedule_id="scd_1")
    flow = {"Upstash_Flow_Control_Key": "tenant", "Upstash_Flow_Control_Value": "parallelism=1"}
    fourth = await desk.publish("https://c.example/", **delay, **flow)
    at = round(second.created_at.timestamp() * 1000)
    cases = [
        ({"url": "https://a.example/x?q=1"}, {first.id}),
        ({"host": "a.example"}, {first.id, third.id}),
        ({"host": "a.example,b.example", "path": "/y"}, {second.id, third.id}),
        ({"label": ["big", "blue"]}, {first.id, second.id}),
        ({"topicName": "group"}, {second.id}),
        ({"queueName": "orders"}, {third.id}),
        ({"scheduleId": "scd_1"}, {third.id}),
        ({"callerIp": "10.0.0.1"}, {first.id}),
        ({"callerIP": "10.0.0.1"}, {first.id}),
        ({"flowControlKey": "tenant"}, {fourth.id}),
        ({"fromDate": at, "toDate": at, "topicName": "group"}, {second.id}),
        ({"toDate": at - 60_000}, set()),
    ]
    for query, meant in cases:
        seen = {event["messageId"] for event in (await desk.get("/v2/events", state="CREATED", **query))["events"]}
        assert seen == meant, query
    assert await desk.answered("DELETE", "/v2/messages", 200, params={"host": "a.example", "count": 1}) == {
        "cancelled": 1
    }
    assert await desk.answered("DELETE", "/v2/messages", 200, params={"label": "blue"}) == {"cancelled": 1}
    await desk.worker()
    for message, status in ((first, None), (second, Status.CANCELLED), (third, Status.CANCELLED), (fourth, None)):
        if status is not None:
            assert await eventually(lambda one=message.id: ended(desk, one)) is status
        else:
            assert await ended(desk, message.id) is None
    assert await desk.answered("DELETE", "/v2/messages", 200) == {"cancelled": 2}


async def test_without_a_filter_all_are_cancelled(desk: Desk) -> None:
    """More than fit a page of the store, each counted once, whether a worker has heard of it or not."""
    await asyncio.gather(*(desk.publish(Upstash_Delay="1h") for _ in range(450)))
    for count in (100, 100, 50):
        assert await desk.answered("DELETE", "/v2/messages", 200, params={"count": count}) == {"cancelled": count}
    assert await desk.answered("DELETE", "/v2/messages", 200) == {"cancelled": 200}
    await desk.worker()
    await eventually(lambda: nothing_is_left(desk))
    assert await desk.answered("DELETE", "/v2/messages", 200) == {"cancelled": 0}


async def nothing_is_left(desk: Desk) -> bool:
    return (await (await desk.store()).lag(["http"]))["http"] == 0
