"""Publishes and enqueues by the short way that they take, and by the routes, which answer where the API is mounted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from taskq.api.app import make_api
from tests.integration.api.served import Served

TO = "http://example.com/a//b?x=%20&y=1"


@pytest.fixture(params=["", "/under"])
async def http(served: Served, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API at the root, and under a path."""
    api = make_api(served.room.app, closes=False)
    transport = httpx.ASGITransport(app=api, root_path=request.param)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://taskq{request.param}") as client:
        yield client
    await api.state.context.close()


async def test_a_message_is_accepted_either_way(served: Served, http: httpx.AsyncClient) -> None:
    for path, queue in ((f"/v2/publish/{TO}", None), (f"/v2/enqueue/line/{TO}", "line")):
        answer = await http.post(path, content=b"body", headers={"Upstash-Retries": "1"})
        assert answer.status_code == 200, answer.text
        message = await served.answer("GET", f"/v2/messages/{answer.json()['messageId']}")
        assert (message["url"], message["body"], message["maxRetries"]) == (TO, "body", 1)
        assert message.get("queueName") == queue


async def test_a_wrong_one_is_refused_alike(http: httpx.AsyncClient) -> None:
    for path, headers, status in (
        ("/v2/publish/example.com/a", {}, 400),
        ("/v2/publish/no-such-group", {}, 404),
        (f"/v2/enqueue/a%20b/{TO}", {}, 400),
        (f"/v2/publish/{TO}", {"Upstash-Delay": "soon"}, 400),
        ("/v2/publish/task://no-such-task", {}, 400),
        ("/v2/enqueue/line", {}, 404),
    ):
        answer = await http.post(path, content=b"body", headers=headers)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), (path, answer.text)


async def test_a_body_that_grows_too_large_on_its_way_is_refused(http: httpx.AsyncClient) -> None:
    async def growing() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(2**19)

    answer = await http.post(f"/v2/publish/{TO}", content=growing())
    assert (answer.status_code, list(answer.json())) == (413, ["error"]), answer.text


async def test_other_methods_are_told_which_there_are(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"/v2/publish/{TO}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
