"""A chat with a model: handed on to the server that the setting names."""

from __future__ import annotations

import pytest

from taskq import TaskQ
from tests.endpoint import Answer, Endpoint
from tests.integration.api.served import calling

PATH = "/v1/chat/completions"


@pytest.fixture
def app(sqlite_store_url: str, prefix: str) -> TaskQ:
    return TaskQ(broker=f"memory://{prefix}", store=sqlite_store_url, prefix=prefix)


async def test_a_chat_is_handed_on(sqlite_store_url: str, prefix: str, anyio_backend: str) -> None:
    """With the server's own token and not the caller's; the answer comes back with its status, whatever that is."""
    with Endpoint() as model:
        settings = {"llm_url": model.url(""), "llm_token": "model-token", "api_token": "ours"}
        app = TaskQ(broker=f"memory://{prefix}", store=sqlite_store_url, prefix=prefix, **settings)
        async with calling(app, headers={"Authorization": "Bearer ours"}) as http:
            model.answer(
                PATH, Answer(200, {"Content-Type": "application/json"}, b'{"choices": []}'), Answer(429, body=b"later")
            )
            answers = [await http.post(f"/llm{PATH}", json={"model": "m", "messages": []}) for _ in range(2)]
            assert [(one.status_code, one.content) for one in answers] == [(200, b'{"choices": []}'), (429, b"later")]
            [seen, _] = await model.until(PATH, 2)
            assert (seen.json(), seen.header("authorization")) == ({"model": "m", "messages": []}, "Bearer model-token")
            for bad in (b"{", b'{"stream": true}'):
                assert (await http.post(f"/llm{PATH}", content=bad)).status_code == 400
            assert (
                await http.post(f"/llm{PATH}", json={}, headers={"Authorization": "Bearer other"})
            ).status_code == 401


async def test_without_a_model_a_chat_is_refused(app: TaskQ, anyio_backend: str) -> None:
    async with calling(app) as http:
        answer = await http.post(f"/llm{PATH}", json={})
        assert answer.status_code == 400 and "TASKQ_LLM_URL" in answer.json()["error"]


async def test_a_model_that_does_not_answer(sqlite_store_url: str, prefix: str, anyio_backend: str) -> None:
    with Endpoint() as gone:
        url = gone.url("")
    app = TaskQ(broker=f"memory://{prefix}", store=sqlite_store_url, prefix=prefix, llm_url=url)
    async with calling(app) as http:
        answer = await http.post(f"/llm{PATH}", json={})
        assert answer.status_code == 502 and "did not answer" in answer.json()["error"]
