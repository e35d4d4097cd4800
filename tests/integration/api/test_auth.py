"""Who may call the API."""

from __future__ import annotations

import logging

import pytest

from tests.integration.api.served import Served, calling
from tests.integration.room import Room

FULL, READING = "secret-ünicode", "only-reading"
TOKENS = {"api_token": FULL, "api_readonly_token": READING}


@pytest.fixture
def guarded(sqlite_store_url: str, prefix: str) -> Room:
    room = Room(broker=f"memory://{prefix}", store=sqlite_store_url, prefix=prefix)
    room.app = room.make_app(**TOKENS)
    return room


def bearer(token: str) -> dict[str, bytes]:
    return {"Authorization": b"Bearer " + token.encode()}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v2/queues", {}, 401),
        ("GET", "/v2/queues", bearer("wrong"), 401),
        ("GET", "/v2/queues", bearer(""), 401),
        ("GET", "/v2/queues", bearer(FULL + "x"), 401),
        ("GET", "/v2/queues", bearer(FULL[:-1]), 401),
        ("GET", "/v2/queues", {"Authorization": FULL.encode()}, 401),
        ("GET", "/v2/queues", {"Authorization": b"Basic " + FULL.encode()}, 401),
        ("GET", "/v2/queues", bearer(FULL), 200),
        ("GET", "/v2/queues", {"Authorization": b"bearer " + FULL.encode()}, 200),
        ("GET", "/v2/queues?qstash_token=secret-%C3%BCnicode", {}, 200),
        ("GET", "/v2/queues?qstash_token=wrong", {}, 401),
        ("GET", "/v2/queues?qstash_token=secret-%C3%BCnicode", bearer("wrong"), 401),
        ("GET", "/v2/queues", bearer(READING), 200),
        ("GET", f"/v2/queues?qstash_token={READING}", {}, 200),
        ("POST", "/v2/queues/q/pause", bearer(READING), 403),
        ("DELETE", "/v2/queues/q", bearer(READING), 403),
        ("POST", "/v2/publish/https://example.com", bearer(READING), 403),
        ("PATCH", "/v2/topics/g", bearer(READING), 403),
        ("POST", "/admin/dlq/retry?all=true", bearer(READING), 403),
        ("GET", "/admin/queues", {}, 401),
        ("GET", "/nowhere", {}, 401),
        ("GET", "/health", {}, 200),
        ("GET", "/ready", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/docs", {}, 200),
    ],
)
async def test_who_may_call(guarded: Room, method: str, path: str, headers: dict[str, bytes], status: int) -> None:
    """The one token opens all, the other reading; without one only health and the document are open."""
    async with calling(guarded.app) as http:
        answer = await http.request(method, path, headers=headers)
        assert answer.status_code == status, answer.text
        if status in (401, 403):
            assert list(answer.json()) == ["error"]
            assert FULL not in answer.text and READING not in answer.text
    await guarded.close()


async def test_without_tokens_all_may_call(served: Served) -> None:
    """No configured token: nothing is asked for, and a token that is sent does no harm."""
    await served.answer("POST", "/v2/queues", json={"queueName": "q"}, headers={"Authorization": "Bearer any"})
    assert [queue["name"] for queue in await served.answer("GET", "/v2/queues?qstash_token=any")] == ["q"]


async def test_the_token_in_the_query_goes_no_further(guarded: Room, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the destination nor a log gets it; the destination's own query is kept byte for byte."""
    caplog.set_level(logging.DEBUG)
    async with calling(guarded.app) as http:
        served = Served(guarded, http)
        path = "/v2/publish/https://example.com/in?a=%20b+c&qstash_token=secret-%C3%BCnicode&d"
        sent = await served.answer("POST", path, content=b"x")
        message = await served.answer("GET", f"/v2/messages/{sent['messageId']}", headers=bearer(READING))
    assert message["url"] == "https://example.com/in?a=%20b+c&d"
    for said in (FULL, "%C3%BCnicode", READING):
        assert not any(said in record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    await guarded.close()
