"""Errors as the official Python client tells of them, and who is let in."""

from __future__ import annotations

import httpx
import pytest
from qstash.errors import QStashError, RateLimitExceededError

from tests.clients.calls import Calls, Names
from tests.clients.server import Site
from tests.endpoint import Endpoint


async def test_client_is_told_what_is_wrong(api: Calls, endpoint: Endpoint) -> None:
    """400 with the text of what is wrong, in the body that the client puts into its exception."""
    url = endpoint.url("/never")
    known = "invalid destination url: endpoint has invalid scheme, add http:// or https://"
    with pytest.raises(QStashError, match=known):
        await api.message.publish(url="ftp://example.com")
    for options, word in (
        ({"retries": -1}, "etries"),
        ({"delay": "soon"}, "elay"),
        ({"timeout": "1x"}, "imeout"),
        ({"retry_delay": "__import__('os')"}, "etry-"),
        ({"method": "BREW"}, "ethod"),
        ({"callback": "mailto:a@b.c"}, "allback"),
        ({"flow_control": {"key": "k", "rate": 0}}, "low"),
    ):
        with pytest.raises(QStashError, match=f"400.*error.*{word}"):
            await api.message.publish(url=url, **options)
    with pytest.raises(QStashError, match="40[04].*error"):
        await api.message.publish(url_group="no-such-group")


async def test_client_is_told_that_a_body_is_too_large(api: Calls, endpoint: Endpoint) -> None:
    with pytest.raises(QStashError, match="413.*error"):
        await api.message.publish(url=endpoint.url("/never"), body=b"x" * (2 * 1024 * 1024))


async def test_client_needs_its_token(running: Site, endpoint: Endpoint) -> None:
    """401 without the token, as bearer or in the query; a second one may only read."""
    async with httpx.AsyncClient(base_url=running.url) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {running.token}"}):
            answer = await client.get("/v2/queues", headers=headers)
            assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert (await client.get("/v2/queues", params={"qstash_token": running.token})).status_code == 200
        assert (await client.get("/v2/queues", params={"qstash_token": "wrong"})).status_code == 401
        readonly = {"Authorization": f"Bearer {running.readonly_token}"}
        assert (await client.get("/v2/queues", headers=readonly)).status_code == 200
        refused = await client.post(f"/v2/publish/{endpoint.url('/never')}", headers=readonly)
        assert (refused.status_code, list(refused.json())) == (403, ["error"])
        assert (await client.delete("/v2/messages", headers=readonly)).status_code == 403


async def test_token_is_not_passed_on(running: Site, endpoint: Endpoint, path: Names) -> None:
    """Neither form of it reaches a destination, also when all headers are forwarded."""
    target = path()
    async with httpx.AsyncClient(base_url=running.url) as client:
        await client.post(
            f"/v2/publish/{endpoint.url(target)}?x=1&qstash_token={running.token}&upstash-retries=0&y=2",
            headers={"Upstash-Header-Forward": "true", "X-Mine": "1", "Authorization": f"Bearer {running.token}"},
        )
    [seen] = await endpoint.until(target)
    assert (seen.query, seen.header("x-mine")) == ("x=1&y=2", "1")
    assert running.token not in str(seen)
    assert seen.header("authorization") is None


async def test_client_is_told_that_it_asks_too_often(running: Site, endpoint: Endpoint, path: Names) -> None:
    """Beyond the requests a second that a client may make: 429 as the client knows it. Publishing is not counted."""
    from qstash import QStash

    target = path()
    with running.another(TASKQ_API_RATE_LIMIT="2") as url:
        calls = Calls(QStash(running.token, base_url=url, retry=False))
        with pytest.raises(RateLimitExceededError) as caught:
            for _ in range(20):
                await calls.queue.list()
        assert (caught.value.limit, caught.value.remaining) == ("2", "0")
        assert caught.value.reset is not None
        for _ in range(10):
            await calls.message.publish(url=endpoint.url(target))
        await calls.close()
    await endpoint.until(target, 10)
