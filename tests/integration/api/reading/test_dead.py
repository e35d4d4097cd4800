"""The dead letter queue over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from taskq import Reject
from tests.endpoint import Answer
from tests.integration.api.reading.desk import Desk
from tests.support import eventually

EVERYWHERE = pytest.mark.parametrize("desk", ["memory", "servers"], indirect=True)


@EVERYWHERE
async def test_a_message_that_failed_is_listed_shown_and_deleted(desk: Desk) -> None:
    """With the last answer of its destination, until it is deleted; then it is not found."""
    desk.endpoint.answer("/in", Answer(404, {"X-Why": "gone"}, b"404 Not Found"))
    await desk.worker()
    [listed] = await desk.dead(Upstash_Forward_X="1")
    path = f"/v2/dlq/{listed['dlqId']}"
    assert await desk.get(path) == listed
    assert (listed["responseStatus"], listed["responseBody"]) == (404, "404 Not Found")
    assert listed["responseHeader"]["X-Why"] == ["gone"]
    assert (listed["body"], listed["header"]["X"], listed["maxRetries"]) == ("hi", ["1"], 0)
    assert await desk.answered("DELETE", path, 200) == {"deleted": 1}
    assert listed["dlqId"] in await desk.refused("GET", path, 404)
    assert listed["dlqId"] in await desk.refused("DELETE", path, 404)
    assert await desk.get("/v2/dlq") == {"messages": []}


async def test_a_destination_that_does_not_answer_leaves_status_0(desk: Desk) -> None:
    """Nothing came back, and that can be filtered for."""
    await desk.worker()
    [listed] = await desk.dead(url="http://127.0.0.1:1/")
    assert (listed["responseStatus"], listed["responseHeader"]) == (0, {})
    assert [one["dlqId"] for one in (await desk.get("/v2/dlq", responseStatus=0))["messages"]] == [listed["dlqId"]]
    assert (await desk.get("/v2/dlq", responseStatus=503))["messages"] == []


@EVERYWHERE
async def test_pages_follow_each_other_in_either_order(desk: Desk) -> None:
    """Every letter is listed once, the first to die first unless asked otherwise; the last page has no cursor."""
    desk.endpoint.answer("/in", 500)
    await desk.worker()
    expected = [one["dlqId"] for one in await desk.dead(7)]
    for order, wanted in ((None, expected), ("earliestFirst", expected), ("latestFirst", expected[::-1])):
        found: list[str] = []
        query = {"count": 3} if order is None else {"count": 3, "order": order}
        page = await desk.get("/v2/dlq", **query)
        while True:
            found += [one["dlqId"] for one in page["messages"]]
            if "cursor" not in page:
                break
            assert len(page["messages"]) == 3
            page = await desk.get("/v2/dlq", **query, cursor=page["cursor"])
        assert found == wanted


@EVERYWHERE
async def test_filters_choose_what_is_listed(desk: Desk) -> None:
    """Each filter alone, and several together."""
    desk.endpoint.answer("/a", 500)
    desk.endpoint.answer("/b", 503)
    await desk.worker()
    [first] = await desk.dead(url="/a", Upstash_Label="red,big", caller_ip="10.0.0.1", topic="group")
    [second] = await desk.dead(url="/b", schedule_id="scd_1", queue_name="orders", Upstash_Flow_Control_Key="tenant",
                               Upstash_Flow_Control_Value="parallelism=1")  # fmt: skip
    both, one, other = {first["dlqId"], second["dlqId"]}, {first["dlqId"]}, {second["dlqId"]}
    cases = [
        ({}, both),
        ({"messageId": first["messageId"]}, one),
        ({"url": desk.endpoint.url("/a")}, one),
        ({"path": "/b"}, other),
        ({"topicName": "group"}, one),
        ({"scheduleId": "scd_1"}, other),
        ({"queueName": "orders"}, other),
        ({"responseStatus": "503"}, other),
        ({"responseStatus": "500,503"}, both),
        ({"responseStatus": "503", "label": "red"}, set()),
        ({"callerIp": "10.0.0.1"}, one),
        ({"label": ["none", "big"]}, one),
        ({"flowControlKey": "tenant"}, other),
        ({"dlqIds": [first["dlqId"], "1-none"]}, one),
        ({"fromDate": first["createdAt"]}, both),
        ({"toDate": first["createdAt"] - 1}, set()),
    ]
    for query, meant in cases:
        assert {letter["dlqId"] for letter in (await desk.get("/v2/dlq", **query))["messages"]} == meant, query


@EVERYWHERE
async def test_many_are_deleted_by_ids_or_by_filters(desk: Desk) -> None:
    """Ids come from a body or from the query; pages of filters are followed by their cursor until nothing is left."""
    desk.endpoint.answer("/in", 500)
    await desk.worker()
    ids = [one["dlqId"] for one in await desk.dead(9, Upstash_Label="x")]
    assert await desk.answered("DELETE", "/v2/dlq", 200, json={"dlqIds": [ids[0], "1-none"]}) == {"deleted": 1}
    query = {"dlqIds": [ids[1], ids[2]], "label": "none"}
    assert await desk.answered("DELETE", "/v2/dlq", 200, params=query) == {"deleted": 2}
    assert await desk.answered("DELETE", "/v2/dlq", 200, json={"dlqIds": []}) == {"deleted": 0}
    assert await desk.answered("DELETE", "/v2/dlq", 200, params={"label": "none"}) == {"deleted": 0}
    deleted, cursor = 0, ""
    while True:
        call = {"label": "x", "count": 4, "cursor": cursor}
        found = await desk.answered("DELETE", "/v2/dlq", 200, params=call)
        deleted += found["deleted"]
        if "cursor" not in found:
            break
        cursor = found["cursor"]
    assert deleted == 6
    assert await desk.get("/v2/dlq") == {"messages": []}


@EVERYWHERE
async def test_a_dead_letter_is_delivered_again_as_a_new_message(desk: Desk) -> None:
    """Body, headers and settings are the same, the id is new, the retries count from 0, and the letter is gone."""
    desk.endpoint.answer("/in", 500, 200)
    await desk.worker()
    [dead] = await desk.dead(body=b"\xff\x00", Upstash_Forward_X="1", Upstash_Label="x", Upstash_Method="PUT")
    found = await desk.answered("POST", f"/v2/dlq/retry/{dead['dlqId']}", 201)
    assert set(found) == {"messageId"}
    assert found["messageId"] != dead["messageId"]
    before, after = await desk.endpoint.until("/in", 2)
    assert (after.method, after.body, after.header("x")) == ("PUT", b"\xff\x00", "1")
    assert (after.header("upstash-message-id"), after.header("upstash-retried")) == (found["messageId"], "0")
    assert before.header("upstash-message-id") == dead["messageId"]
    assert (await desk.get("/v2/dlq"))["messages"] == []
    shown = await desk.get(f"/v2/messages/{found['messageId']}")
    assert (shown["labels"], shown["maxRetries"]) == (["x"], 0)
    events = (await desk.get("/v2/events", messageId=found["messageId"], order="earliestFirst"))["events"]
    assert events[0]["state"] == "CREATED"
    assert "not found" in await desk.refused("POST", f"/v2/dlq/retry/{dead['dlqId']}", 404)


@EVERYWHERE
async def test_headers_override_what_the_dead_one_says(desk: Desk) -> None:
    """Settings of the call, as headers or in its query, stand over those of the letter; the rest stays."""
    desk.endpoint.answer("/in", 500, 500, 200)
    await desk.worker()
    [dead] = await desk.dead(Upstash_Forward_X="old", Upstash_Forward_Y="kept")
    headers = {"Upstash-Method": "PATCH", "Upstash-Forward-X": "new", "Upstash-Retry-Delay": "1"}
    path = f"/v2/dlq/retry/{dead['dlqId']}?upstash-retries=4&upstash-label=again"
    found = await desk.answered("POST", path, 201, headers=headers)
    last = (await desk.endpoint.until("/in", 3))[-1]
    assert (last.method, last.header("x"), last.header("y"), last.body) == ("PATCH", "new", "kept", b"hi")
    assert last.header("upstash-retried") == "1"
    shown = await desk.get(f"/v2/messages/{found['messageId']}")
    assert (shown["maxRetries"], shown["labels"], shown["method"]) == (4, ["again"], "PATCH")


async def test_a_retry_may_be_delayed_or_wait_for_a_key(desk: Desk) -> None:
    """The new message waits as one that was published so."""
    desk.endpoint.answer("/in", 500)
    await desk.worker()
    [dead] = await desk.dead()
    call = {"Upstash-Delay": "1h", "Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "rate=1"}
    found = await desk.answered("POST", f"/v2/dlq/retry/{dead['dlqId']}", 201, headers=call)
    shown = await desk.get(f"/v2/messages/{found['messageId']}")
    assert shown["notBefore"] - shown["createdAt"] == pytest.approx(3_600_000, abs=10)
    assert shown["flowControlKey"] == "k"

    async def waits() -> bool:
        page = await (await desk.store()).waiting()
        return [row.message.id for row in page.items] == [found["messageId"]]

    await eventually(waits)
    assert len(desk.endpoint.requests("/in")) == 1


@EVERYWHERE
async def test_many_are_retried_by_ids_or_by_filters(desk: Desk) -> None:
    """Each gives a new message; what is named and gone gives none; pages of filters are followed by their cursor."""
    desk.endpoint.answer("/in", *[500] * 7, 200)
    await desk.worker()
    ids = [one["dlqId"] for one in await desk.dead(7, Upstash_Label="x")]
    found = await desk.answered("POST", "/v2/dlq/retry", 201, params={"dlqIds": [ids[0], "1-none", ids[0]]})
    assert (len(found["responses"]), "cursor" in found) == (1, False)
    found = await desk.answered("POST", "/v2/dlq/retry", 201, json={"dlqIds": []})
    assert found == {"responses": []}
    found = await desk.answered("POST", "/v2/dlq/retry", 201, json={"dlqIds": ids[1:3]})
    new = [one["messageId"] for one in found["responses"]]
    assert len(new) == 2
    cursor = ""
    while True:
        call = {"label": "x", "count": 3, "cursor": cursor}
        found = await desk.answered("POST", "/v2/dlq/retry", 201, params=call)
        new += [one["messageId"] for one in found["responses"]]
        if "cursor" not in found:
            break
        cursor = found["cursor"]
    assert len(set(new)) == 6
    seen = await desk.endpoint.until("/in", 14)
    assert {one.header("upstash-message-id") for one in seen[7:]} >= set(new)
    assert (await desk.get("/v2/dlq"))["messages"] == []


async def test_a_bad_override_retries_nothing(desk: Desk) -> None:
    """The error names the header, and the letter stays."""
    desk.endpoint.answer("/in", 500)
    await desk.worker()
    [dead] = await desk.dead()
    bad = {"Upstash-Retries": "many"}
    for path in (f"/v2/dlq/retry/{dead['dlqId']}", "/v2/dlq/retry"):
        assert "Upstash-Retries" in await desk.refused("POST", path, 400, headers=bad)
    assert [one["dlqId"] for one in (await desk.get("/v2/dlq"))["messages"]] == [dead["dlqId"]]


async def test_dead_python_tasks_are_none_of_the_protocols(desk: Desk) -> None:
    """They are not listed, shown, deleted or retried here, even by their ids."""

    @desk.room.app.task(name="break")
    async def broken() -> None:
        raise Reject("no")

    await desk.worker()
    await broken.enqueue_async()
    letter = await desk.room.dead()
    assert (await desk.get("/v2/dlq"))["messages"] == []
    assert await desk.answered("DELETE", "/v2/dlq", 200, json={"dlqIds": [letter.id]}) == {"deleted": 0}
    assert await desk.answered("DELETE", "/v2/dlq", 200) == {"deleted": 0}
    assert await desk.answered("POST", "/v2/dlq/retry", 201, json={"dlqIds": [letter.id]}) == {"responses": []}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "retry/")):
        assert "not found" in await desk.refused(method, f"/v2/dlq/{path}{letter.id}", 404)
    assert (await desk.room.dead()).id == letter.id


async def test_redacted_parts_are_delivered_whole_by_a_retry(desk: Desk) -> None:
    """What is shown as its hash is sent as it was."""
    desk.endpoint.answer("/in", 500, 200)
    await desk.worker()
    [dead] = await desk.dead(body=b"secret", Upstash_Redact_Fields="body")
    assert dead["body"].startswith("REDACTED:")
    await desk.answered("POST", f"/v2/dlq/retry/{dead['dlqId']}", 201)
    assert (await desk.endpoint.until("/in", 2))[-1].body == b"secret"


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/v2/dlq", {"count": 101}),
        ("GET", "/v2/dlq", {"cursor": "x"}),
        ("GET", "/v2/dlq", {"cursor": "[1]"}),
        ("GET", "/v2/dlq", {"order": "random"}),
        ("DELETE", "/v2/dlq", {"dlqIds": ""}),
        ("DELETE", "/v2/dlq", {"dlqid": "1-a"}),
        ("DELETE", "/v2/dlq", {"count": 0}),
        ("POST", "/v2/dlq/retry", {"dlqId": "1-a"}),
        ("POST", "/v2/dlq/retry", {"fromDate": "today"}),
    ],
)
async def test_what_cannot_be_is_refused_by_its_name(desk: Desk, method: str, path: str, query: dict) -> None:
    """The error names the parameter, and nothing is done."""
    [name] = query
    assert name in await desk.refused(method, path, 400, params=query)


@EVERYWHERE
async def test_letters_that_several_callers_retry_come_back_once(desk: Desk) -> None:
    """Whoever is first is told of the new message, and each is delivered once."""
    desk.endpoint.answer("/in", *[500] * 12, 200)
    await desk.worker()
    ids = [one["dlqId"] for one in await desk.dead(12)]
    orders = [ids, ids[::-1], ids[3:] + ids[:3], ids[:6]]
    calls = [desk.answered("POST", "/v2/dlq/retry", 201, json={"dlqIds": order}) for order in orders]
    new = [one["messageId"] for found in await asyncio.gather(*calls) for one in found["responses"]]
    assert len(new) == len(set(new)) == 12
    seen = await desk.endpoint.until("/in", 24)
    assert sorted(one.header("upstash-message-id") or "" for one in seen[12:]) == sorted(new)
