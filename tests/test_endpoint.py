"""The destination that other tests deliver to keeps and answers as they rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from tests.endpoint import Answer, Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


async def test_endpoint_keeps_a_request_as_it_was_sent(endpoint: Endpoint) -> None:
    async with httpx.AsyncClient() as client:
        await client.request("PATCH", endpoint.url("/a%20b?x=%2F&y"), content=b"\xff\0", headers={"X-One": "1"})
    [seen] = await endpoint.until("/a%20b")
    assert (seen.method, seen.query, seen.body) == ("PATCH", "x=%2F&y", b"\xff\0")
    assert (seen.header("X-ONE"), seen.header("X-Two")) == ("1", None)


async def test_endpoint_answers_in_turn(endpoint: Endpoint) -> None:
    endpoint.answer("/turn", 503, Answer(201, {"X-Made": "yes"}, b"done"))
    async with httpx.AsyncClient() as client:
        answers = [await client.get(endpoint.url(path)) for path in ("/turn", "/turn?again", "/turn", "/other")]
    assert [one.status_code for one in answers] == [503, 201, 201, 200]
    assert (answers[1].headers["x-made"], answers[1].content) == ("yes", b"done")


async def test_endpoint_is_awaited(endpoint: Endpoint) -> None:
    """Who waits goes on when the last of the requests has come; the wait ends in words that tell what came."""
    async with httpx.AsyncClient() as client:
        waiting = asyncio.create_task(endpoint.until("/slow", 2))
        with endpoint.holding("/slow"):
            sent = [asyncio.create_task(client.get(endpoint.url("/slow"))) for _ in range(2)]
            assert len(await waiting) == 2
            assert not any(one.done() for one in sent)
        assert [one.status_code for one in await asyncio.gather(*sent)] == [200, 200]
    with pytest.raises(AssertionError, match="2 of 3 requests to /slow"):
        await endpoint.until("/slow", 3, timeout=0.05)
    assert len(endpoint.wait("/slow", 2)) == 2
