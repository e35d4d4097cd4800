"""What operators see and do over HTTP that QStash's protocol does not know."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from taskq import Queue, TaskQ
from taskq.handle import Handle
from tests.endpoint import Endpoint
from tests.integration.api.served import Served
from tests.support import eventually


class Colour(enum.Enum):
    RED = "red"


class Order(BaseModel):
    item: str
    colour: Colour = Colour.RED


class Opaque:
    pass


def declare(app: TaskQ) -> None:
    """Tasks to call."""

    @app.task(name="divide", retry=0)
    async def divide(a: int, b: int = 0, *, note: str = "") -> dict[str, Any]:
        """Divide."""
        return {
            "quotient": a / b,
            "note": note,
            "far": math.inf,
            "at": datetime(2026, 1, 1, tzinfo=UTC),
            "raw": b"\xff",
        }

    @app.task(name="ship", retry=0)
    async def ship(order: Order, when: datetime, *tags: str, **extra: int) -> None: ...

    @app.task(name="odd")
    async def odd(thing: Opaque, other, /) -> None: ...  # type: ignore[no-untyped-def]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


async def send(served: Served, name: str, *args: Any, **kwargs: Any) -> Handle[Any]:
    return await served.room.app.tasks[name].enqueue_async(*args, **kwargs)


async def dead(served: Served, count: int = 1, query: str = "") -> list[dict[str, Any]]:
    """So many dead letters, once they are archived; newest first."""

    async def check() -> dict[str, Any]:
        found: dict[str, Any] = await served.answer("GET", f"/admin/dlq?{query}")
        assert found["total"] == len(found["items"]) == count, found
        return found

    return list((await eventually(check))["items"])


async def test_workers_are_seen(anywhere: Served) -> None:
    """Which there are, where, what they serve; asked twice at once, too."""
    assert await anywhere.answer("GET", "/admin/workers") == []
    declare(anywhere.room.app)
    workers = [await anywhere.room.worker(), await anywhere.room.worker()]
    seen = await anywhere.answer("GET", "/admin/workers")
    assert sorted(one["id"] for one in seen) == sorted(worker.id for worker in workers)
    assert all(one["queues"] == ["default"] and one["running"] == 0 and one["host"] for one in seen)


async def test_tasks_tell_what_they_take(served: Served) -> None:
    """A JSON schema of the arguments; what JSON Schema cannot tell of is left open."""
    declare(served.room.app)
    tasks = {task["name"]: task for task in await served.answer("GET", "/admin/tasks")}
    assert list(tasks) == ["divide", "odd", "ship"]
    assert (tasks["divide"]["queue"], tasks["divide"]["max_retries"]) == ("default", 0)
    assert tasks["divide"]["description"] == "Divide."
    assert tasks["divide"]["arguments"] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "integer", "default": 0},
            "note": {"type": "string", "default": ""},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    ship = tasks["ship"]["arguments"]
    assert ship["properties"] == {
        "order": {"$ref": "#/$defs/Order"},
        "when": {"type": "string", "format": "date-time"},
    }
    assert {"Order", "Colour"} == ship["$defs"].keys()
    assert (ship["x-positional"], ship["additionalProperties"]) == ({"type": "string"}, {"type": "integer"})
    assert tasks["odd"]["arguments"]["properties"] == {"thing": {}, "other": {}}
    assert await served.answer("GET", "/admin/tasks/divide") == tasks["divide"]


async def test_queues_of_any_kind_are_seen_paused_and_purged(anywhere: Served, endpoint: Endpoint) -> None:
    """With what lies in them and how old that is, open ones too."""
    declare(anywhere.room.app)
    store = await anywhere.room.store()
    await store.ensure_queue(Queue("lanes", parallelism=1, partitions=2))
    sent = [await anywhere.answer("POST", f"/v2/publish/{endpoint.url('/in')}") for _ in range(2)]
    queues = {queue["name"]: queue for queue in await anywhere.answer("GET", "/admin/queues")}
    assert (queues["lanes"]["kind"], queues["lanes"]["oldest_at"]) == ("fifo, 2 lanes", None)
    assert (queues["http"]["kind"], queues["http"]["ready"]) == ("open", 2)
    first = await anywhere.answer("GET", f"/admin/messages/{sent[0]['messageId']}")
    assert queues["http"]["oldest_at"] == first["message"]["created_at"]
    paused = await anywhere.answer("POST", "/admin/queues/http/pause")
    assert (paused["name"], paused["paused"]) == ("http", True)
    assert await anywhere.answer("POST", "/admin/queues/http/purge") == {"cancelled": 2}
    assert (await anywhere.answer("POST", "/admin/queues/http/resume"))["paused"] is False
    shown = await anywhere.answer("GET", "/admin/queues/http")
    assert (shown["ready"], shown["oldest_at"]) == (0, None)
    for one in sent:
        assert await anywhere.status(one["messageId"]) == "CANCELLED"
    for verb in ("pause", "resume", "purge"):
        await anywhere.refused("POST", f"/admin/queues/none/{verb}", 404)


async def test_messages_of_any_kind_are_listed_and_shown(anywhere: Served, endpoint: Endpoint) -> None:
    """Python tasks with their results, requests as they were published; page by page, by status, queue and task."""
    declare(anywhere.room.app)
    await anywhere.worker()
    handle = await send(anywhere, "divide", 6, 3, note="a\ud800b")
    await handle.get_result_async(60)
    shown = await anywhere.answer("GET", f"/admin/messages/{handle.id}")
    assert shown["message"]["status"] == "SUCCEEDED" and shown["request"] is None
    expected = {"quotient": 2.0, "note": "a\\ud800b", "far": "inf", "at": "2026-01-01T00:00:00+00:00", "raw": "ff"}
    assert shown["message"]["result"] == expected
    assert [line["state"] for line in shown["history"]] == ["CREATED", "ACTIVE", "DELIVERED"]
    path = f"/v2/publish/{endpoint.url('/in')}"
    sent = await anywhere.answer("POST", path, headers={"Upstash-Redact-Fields": "body"}, content=b"secret")
    await anywhere.until_status(sent["messageId"], "SUCCEEDED")
    request = (await anywhere.answer("GET", f"/admin/messages/{sent['messageId']}"))["request"]
    assert request["url"] == endpoint.url("/in") and request["body"].startswith("REDACTED:")
    first = await anywhere.answer("GET", "/admin/messages?limit=1")
    second = await anywhere.answer("GET", "/admin/messages", params={"limit": 1, "cursor": first["cursor"]})
    assert [one["id"] for one in first["items"] + second["items"]] == [sent["messageId"], handle.id]
    assert second["cursor"] is None
    for query, found in (
        ("task=divide", [handle.id]),
        ("queue=http", [sent["messageId"]]),
        ("status=FAILED&status=QUEUED", []),
        ("since=2200-01-01T00:00:00Z", []),
        ("until=2200-01-01&status=SUCCEEDED&task=divide", [handle.id]),
    ):
        items = (await anywhere.answer("GET", f"/admin/messages?{query}"))["items"]
        assert [one["id"] for one in items] == found, query


async def test_a_message_is_cancelled(served: Served) -> None:
    """At once while it is delayed; one that has ended is told to have."""
    declare(served.room.app)
    task = served.room.app.tasks["divide"].options(delay=3600)
    handle = await task.enqueue_async(1)
    await served.room.worker()
    await served.until_status(handle.id, "WAITING")
    path = f"/admin/messages/{handle.id}/cancel"
    assert await served.answer("POST", path) == {"effect": "done"}
    assert "ended" in await served.refused("POST", path, 409)
    assert await served.status(handle.id) == "CANCELLED"


async def test_a_dead_letter_is_retried_with_other_arguments(anywhere: Served) -> None:
    """They must fit the task; what they do not name is not kept."""
    declare(anywhere.room.app)
    await anywhere.room.worker()
    handle = await send(anywhere, "divide", 6, note="first")
    [letter] = await dead(anywhere)
    assert (letter["task"], letter["reason"], letter["message_id"]) == ("divide", "failed", handle.id)
    assert letter["error"] == "ZeroDivisionError: division by zero" and letter["retryable"] is True
    shown = await anywhere.answer("GET", f"/admin/dlq/{letter['id']}")
    assert shown["arguments"] == {"args": [6], "kwargs": {"note": "first"}} and shown["request"] is None
    assert "ZeroDivisionError" in shown["traceback"]
    assert await anywhere.answer("GET", f"/admin/dlq/{handle.id}") == shown
    path = f"/admin/dlq/{letter['id']}/retry"
    assert "divide" in await anywhere.refused("POST", path, 400, json={"args": ["x"]})
    assert "more" in await anywhere.refused("POST", path, 400, json={"more": 1})
    assert (await dead(anywhere))[0]["id"] == letter["id"]
    sent = await anywhere.answer("POST", path, 201, json={"args": [6], "kwargs": {"b": 4}})
    assert (sent["letter_id"], sent["queue"]) == (letter["id"], "default")
    result = await anywhere.room.app.handle(sent["message_id"]).get_result_async(60)
    assert (result["quotient"], result["note"]) == (1.5, "")
    await dead(anywhere, 0)
    await anywhere.refused("POST", path, 404)


async def test_dead_letters_are_retried_and_deleted_in_bulk(anywhere: Served) -> None:
    """By ids, by filters, or all."""
    declare(anywhere.room.app)
    await anywhere.room.worker()
    sent = [await send(anywhere, "divide", number) for number in range(5)]
    letters = await dead(anywhere, 5)
    by_id = f"ids={letters[0]['id']}&ids={letters[1]['message_id']}"
    retried = await anywhere.answer("POST", f"/admin/dlq/retry?{by_id}", 201)
    assert {one["letter_id"] for one in retried["retried"]} == {letters[0]["id"], letters[1]["id"]}
    assert retried["left"] == 0
    await dead(anywhere, 5)  # the two have died again
    assert await anywhere.answer("DELETE", f"/admin/dlq?ids={letters[2]['id']}") == {"deleted": 1}
    assert await anywhere.answer("DELETE", "/admin/dlq?task=another") == {"deleted": 0}
    await dead(anywhere, 4, "task=divide&text=division&reason=failed")
    again = await anywhere.answer("POST", "/admin/dlq/retry?task=divide&text=division", 201)
    assert len(again["retried"]) == 4
    last = await dead(anywhere, 4)
    assert not {one["message_id"] for one in last} & {handle.id for handle in sent}
    assert await anywhere.answer("DELETE", f"/admin/dlq/{last[0]['id']}") == {"deleted": 1}
    await anywhere.refused("DELETE", f"/admin/dlq/{last[0]['id']}", 404)
    assert await anywhere.answer("DELETE", "/admin/dlq?all=true") == {"deleted": 3}
    await dead(anywhere, 0)


async def test_dead_requests_are_among_the_letters(served: Served, endpoint: Endpoint) -> None:
    """One for a URL has no arguments to change; one for a task is sent on with others as its body."""
    declare(served.room.app)
    await served.worker()
    endpoint.answer("/fails", 500)
    no_retries = {"Upstash-Retries": "0"}
    await served.answer("POST", f"/v2/publish/{endpoint.url('/fails')}", headers=no_retries, content=b"body")
    [letter] = await dead(served)
    shown = await served.answer("GET", f"/admin/dlq/{letter['id']}")
    assert shown["arguments"] is None
    assert (shown["request"]["url"], shown["request"]["responseStatus"]) == (endpoint.url("/fails"), 500)
    edit = {"args": [1]}
    assert "/v2/dlq/retry" in await served.refused("POST", f"/admin/dlq/{letter['id']}/retry", 400, json=edit)
    await served.answer("POST", f"/admin/dlq/{letter['id']}/retry", 201)
    await endpoint.until("/fails", 2)
    await dead(served)
    await served.answer("DELETE", "/admin/dlq?all=true")
    await served.answer("POST", "/v2/publish/task://divide", headers=no_retries, json=[6])
    [letter] = await dead(served)
    sent = await served.answer("POST", f"/admin/dlq/{letter['id']}/retry", 201, json={"kwargs": {"a": 6, "b": 3}})
    result = await served.room.app.handle(sent["message_id"]).get_result_async(60)
    assert result["quotient"] == 2.0
