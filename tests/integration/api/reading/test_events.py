"""The history of messages over HTTP, in both of its spellings."""

from __future__ import annotations

import base64

import pytest

from tests.endpoint import Answer
from tests.integration.api.reading.desk import Desk
from tests.support import eventually

EVERYWHERE = pytest.mark.parametrize("desk", ["memory", "servers"], indirect=True)
CALLS = pytest.mark.parametrize(("path", "name"), [("/v2/events", "events"), ("/v2/logs", "logs")])


async def told(desk: Desk, message_id: str, *states: str) -> list[dict]:
    """The message's lines, oldest first, once the last of the states is among them."""

    async def found() -> list[dict]:
        lines = (await desk.get("/v2/events", messageId=message_id, order="earliestFirst"))["events"]
        assert [line["state"] for line in lines] == list(states)
        return lines

    return await eventually(found)


@EVERYWHERE
async def test_a_delivery_is_told_from_its_acceptance_to_its_end(desk: Desk) -> None:
    """Each step is one line, in the order of the steps."""
    sent = await desk.publish(Upstash_Label="x", Upstash_Timeout="20s")
    await told(desk, sent.id, "CREATED")
    await desk.worker()
    lines = await told(desk, sent.id, "CREATED", "ACTIVE", "DELIVERED")
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    for line in lines:
        assert (line["url"], line["label"], line["timeout"]) == (desk.endpoint.url("/in"), "x", 20_000)
        assert base64.b64decode(line["body"]) == b"hi"


@EVERYWHERE
async def test_failed_attempts_tell_what_came_back_and_when_the_next_follows(desk: Desk) -> None:
    """Every attempt has its ERROR with the answer, every retry its instant, and the last one ends in FAILED."""
    desk.endpoint.answer("/in", Answer(500, {"X-Why": "1"}, b"first"), Answer(503, {}, b"second"))
    await desk.worker()
    sent = await desk.publish(Upstash_Retries="1", Upstash_Retry_Delay="20")
    lines = await told(desk, sent.id, "CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED")
    first, retry, second = lines[2], lines[3], lines[5]
    assert (first["responseStatus"], base64.b64decode(first["responseBody"])) == (500, b"first")
    assert first["responseHeader"]["X-Why"] == first["responseHeaders"]["X-Why"] == ["1"]
    assert (second["responseStatus"], base64.b64decode(second["responseBody"])) == (503, b"second")
    assert "500" in first["error"]
    assert retry["nextDeliveryTime"] - retry["time"] == pytest.approx(20, abs=1)
    assert retry["retryDelayExpression"] == retry["retryDelayExpr"] == "20"
    assert not {"responseStatus", "responseBody"} & (set(retry) | set(lines[1]))


@CALLS
async def test_states_are_filtered_by_every_word_that_is_known(desk: Desk, path: str, name: str) -> None:
    """Both spellings of a cancel mean the same, and IN_PROGRESS means attempts, errors and retries."""
    desk.endpoint.answer("/in", 500)
    await desk.worker()
    failed = await desk.publish(Upstash_Retries="0")
    await told(desk, failed.id, "CREATED", "ACTIVE", "ERROR", "FAILED")
    cancelled = await desk.publish(Upstash_Delay="1h")

    async def is_cancelled() -> bool:
        await desk.http.delete(f"/v2/messages/{cancelled.id}")
        return bool((await desk.get(path, state="CANCELED"))[name])

    await eventually(is_cancelled)
    for state, ids in (
        ("CREATED", {failed.id, cancelled.id}),
        ("FAILED", {failed.id}),
        ("IN_PROGRESS", {failed.id}),
        ("CANCELED", {cancelled.id}),
        ("CANCELLED", {cancelled.id}),
        ("canceled,failed", {failed.id, cancelled.id}),
        ("DELIVERED", set()),
    ):
        assert {line["messageId"] for line in (await desk.get(path, state=state))[name]} == ids, state
    states = [line["state"] for line in (await desk.get(path, state="IN_PROGRESS"))[name]]
    assert sorted(states) == ["ACTIVE", "ERROR"]
    [line] = (await desk.get(path, state="CANCELLED"))[name]
    assert line["state"] == {"events": "CANCELED", "logs": "CANCELLED"}[name]
    assert "state" in await desk.refused("GET", path, 400, params={"state": "ASLEEP"})


@EVERYWHERE
@CALLS
async def test_pages_follow_each_other_while_new_lines_come(desk: Desk, path: str, name: str) -> None:
    """Every line that was there is listed once, the latest first; an empty cursor begins anew."""
    sent = [(await desk.publish(Upstash_Delay="1h")).id for _ in range(7)]
    page = await desk.get(path, count=3, cursor="")
    found = [line["messageId"] for line in page[name]]
    while "cursor" in page:
        await desk.publish(Upstash_Delay="1h")
        page = await desk.get(path, count=3, cursor=page["cursor"])
        found += [line["messageId"] for line in page[name]]
    assert found == sent[::-1]
    oldest = (await desk.get(path, count=3, order="earliestFirst"))[name]
    assert [line["messageId"] for line in oldest] == sent[:3]


async def test_ids_of_several_messages_are_repeated_or_joined(desk: Desk) -> None:
    """As both clients send them."""
    sent = [(await desk.publish(Upstash_Delay="1h")).id for _ in range(3)]
    for ids in ([sent[0], sent[2]], f"{sent[0]},{sent[2]}"):
        lines = (await desk.get("/v2/events", messageIds=ids))["events"]
        assert {line["messageId"] for line in lines} == {sent[0], sent[2]}


async def test_instants_bound_what_is_listed_and_are_included(desk: Desk) -> None:
    """A line's own time finds it, from either side."""
    sent = await desk.publish(Upstash_Delay="1h")
    [line] = (await desk.get("/v2/events", messageId=sent.id))["events"]
    at = line["time"]
    for query, count in (
        ({"fromDate": at, "toDate": at}, 1),
        ({"fromDate": at + 1}, 0),
        ({"toDate": at - 1}, 0),
        ({"fromDate": 0, "toDate": 253_370_764_799_999}, 1),
    ):
        assert len((await desk.get("/v2/events", **query))["events"]) == count, query


@pytest.mark.parametrize(
    "query",
    [{"count": 1001}, {"cursor": "[1,2,3]"}, {"cursor": "%00"}, {"fromDate": "-1"}, {"order": ""}, {"label": ""}],
)
@CALLS
async def test_what_cannot_be_is_refused_by_its_name(desk: Desk, path: str, name: str, query: dict) -> None:
    """The error names the parameter."""
    [parameter] = query
    assert parameter in await desk.refused("GET", path, 400, params=query)
    assert await desk.get(path, colour="red") == {name: []}
