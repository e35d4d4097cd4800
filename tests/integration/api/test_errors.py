"""What callers are told when something cannot be done."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from taskq import TaskQ
from taskq.api.app import make_api
from taskq.api.context import InContext
from tests.integration.api.served import Served, calling

MIB = 2**20


@pytest.mark.parametrize(
    ("method", "path", "call", "status", "named"),
    [
        ("GET", "/nowhere", {}, 404, "/nowhere"),
        ("GET", "/v2/queues/none", {}, 404, "none"),
        ("GET", "/v2/topics/none", {}, 404, "none"),
        ("GET", "/v2/flowControl/none", {}, 404, "none"),
        ("GET", "/admin/tasks/none", {}, 404, "none"),
        ("GET", "/admin/dlq/none", {}, 404, "none"),
        ("GET", "/admin/messages/none", {}, 404, "none"),
        ("POST", "/v2/queues/none/pause", {}, 404, "none"),
        ("POST", "/v2/queues", {}, 400, "body"),
        ("POST", "/v2/queues", {"content": b"{"}, 400, "not JSON"),
        ("POST", "/v2/queues", {"content": b"[]"}, 400, "object"),
        ("POST", "/v2/queues", {"content": b"\xff"}, 400, "body"),
        ("POST", "/v2/queues", {"content": b'"' * 100_000}, 400, "not JSON"),
        ("POST", "/v2/queues", {"content": b"[" * 100_000}, 400, "body"),
        ("POST", "/v2/queues", {"json": {}}, 400, "queueName"),
        ("POST", "/v2/queues", {"json": {"queueName": 5}}, 400, "queueName"),
        ("POST", "/v2/queues", {"json": {"queueName": "a b"}}, 400, "'a b'"),
        ("POST", "/v2/queues", {"content": b'{"queueName": "\\ud800"}'}, 400, "queue name"),
        ("POST", "/v2/queues", {"json": {"queueName": "q", "parallelism": 0}}, 400, "parallelism"),
        ("POST", "/v2/queues", {"json": {"queueName": "q", "parallelism": "2"}}, 400, "parallelism"),
        ("POST", "/v2/queues", {"json": {"queueName": "q", "parallelism": True}}, 400, "parallelism"),
        ("POST", "/v2/queues", {"json": {"queueName": "q", "parallelism": 10**30}}, 412, "1024"),
        ("POST", "/v2/queues", {"json": {"queueName": "q", "paused": "yes"}}, 400, "paused"),
        ("POST", "/v2/queues", {"json": {"queueName": "http"}}, 400, "http"),
        ("DELETE", "/v2/queues/callbacks", {}, 400, "callbacks"),
        ("GET", "/v2/queues/a%20b", {}, 400, "a b"),
        ("POST", "/v2/topics/a%20b/endpoints", {"json": {"endpoints": [{"url": "https://a.b"}]}}, 400, "a b"),
        ("POST", "/v2/topics/g/endpoints", {"json": {"endpoints": []}}, 400, "endpoints"),
        ("POST", "/v2/topics/g/endpoints", {"json": {"endpoints": [{"url": "ftp://a.b"}]}}, 400, "invalid scheme"),
        ("POST", "/v2/topics/g/endpoints", {"json": {"endpoints": [{"url": "other-group"}]}}, 400, "other-group"),
        ("POST", "/v2/topics/g/endpoints", {"json": {"endpoints": [{"url": "https://a.b", "name": ""}]}}, 400, "name"),
        ("DELETE", "/v2/topics/g/endpoints", {"json": {"endpoints": [{}]}}, 400, "url or its name"),
        ("PATCH", "/v2/topics/g", {"json": {"headers": {"X-A": "a\r\nB: c"}}}, 400, "X-A"),
        ("PATCH", "/v2/topics/g", {"json": {"headers": {"X-A": {}}}}, 400, "X-A"),
        ("PATCH", "/v2/topics/g", {"json": {"headers": {"Upstash-Retries": "-1"}}}, 400, "Upstash-Retries"),
        ("PATCH", "/v2/topics/g", {"json": {"headers": {}}}, 404, "'g'"),
        ("POST", "/v2/flowControl/k/pin", {}, 400, "nothing to pin"),
        ("POST", "/v2/flowControl/k/pin?rate=0", {}, 400, "rate"),
        ("POST", "/v2/flowControl/k/pin?parallelism=x", {}, 400, "parallelism"),
        ("POST", "/v2/flowControl/k/pin?parallelism=99999", {}, 400, "parallelism"),
        ("POST", "/v2/flowControl/k/pin?rate=5&period=8d", {}, 400, "period"),
        ("POST", "/v2/flowControl/k/pin?rate=5&period=-1", {}, 400, "period"),
        ("POST", "/v2/flowControl/k/pin?period=5", {}, 400, "rate"),
        ("POST", "/v2/flowControl/k/unpin", {}, 400, "nothing to unpin"),
        ("POST", f"/v2/flowControl/{'k' * 201}/pause", {}, 400, "200"),
        ("GET", "/admin/messages?cursor=zzz", {}, 400, "cursor"),
        ("GET", "/admin/messages?limit=0", {}, 400, "limit"),
        ("GET", "/admin/messages?status=LOST", {}, 400, "status"),
        ("GET", "/admin/messages?since=yesterday", {}, 400, "since"),
        ("GET", "/admin/messages?until=9999-12-31T23:59:59-12:00", {}, 400, "until"),
        ("GET", "/admin/messages?queue=%00", {}, 400, "queue"),
        ("GET", "/admin/dlq?cursor=%FF", {}, 400, "cursor"),
        ("DELETE", "/admin/dlq", {}, 400, "all=true"),
        ("DELETE", "/admin/dlq?all=true&task=t", {}, 400, "either"),
        ("POST", "/admin/dlq/retry", {}, 400, "all=true"),
        ("POST", "/admin/dlq/retry?ids=none", {}, 404, "none"),
        ("POST", "/v2/queues", {"content": b"x" * (MIB + 1)}, 413, str(MIB)),
        ("POST", "/v2/publish/https://a.b", {"content": b"x" * (MIB + 1)}, 413, str(MIB)),
    ],
)  # fmt: skip
async def test_errors_say_what_is_wrong(
    served: Served, method: str, path: str, call: dict[str, object], status: int, named: str
) -> None:
    """Each is JSON with one text, which names the field, parameter or name that is wrong."""
    headers = {"Content-Type": "application/json"} if "content" in call else {}
    assert named in await served.refused(method, path, status, headers=headers, **call)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v2/queues", "GET, POST"),
        ("PATCH", "/v2/queues/q", "DELETE, GET"),
        ("GET", "/v2/keys/rotate", "POST"),
        ("BREW", "/v2/topics/g", "DELETE, GET, PATCH"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(served: Served, method: str, path: str, allowed: str) -> None:
    """405, with all methods of the path in Allow."""
    answer = await served.http.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert allowed in answer.json()["error"]


async def test_a_body_without_a_length_is_refused_as_it_grows(served: Served) -> None:
    """Nobody reads to its end what is too large already."""
    came = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal came
        for _ in range(10_000):
            came += 1
            yield b"x" * 65536

    assert "larger" in await served.refused("POST", "/v2/publish/https://a.b", 413, content=body())
    assert came <= 20


async def test_slashes_are_neither_merged_nor_redirected(served: Served) -> None:
    """/v2/queues/ is /v2/queues; a path with others is another path."""
    await served.answer("POST", "/v2/queues/", json={"queueName": "q"})
    assert len(await served.answer("GET", "/v2/queues/")) == 1
    await served.refused("GET", "/v2//queues", 404)


@pytest.mark.parametrize("given", [{"broker": "amqp://127.0.0.1:1/"}, {"store": "postgresql://127.0.0.1:1/none"}])
async def test_what_does_not_answer_is_503(tmp_path: Path, given: dict[str, str]) -> None:
    """The server starts, says which of the two is missing, and callers are told to come again."""
    urls = {"broker": "memory://absent", "store": f"sqlite:///{tmp_path / 'taskq.db'}"} | given
    async with calling(TaskQ(**urls, connect_timeout=1.0)) as http:
        for path in ("/health", "/ready"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["ready"]) == (503, False)
            assert any(next(iter(given)) in reason for reason in answer.json()["reasons"])
        for method, path in (("GET", "/v2/queues"), ("POST", "/v2/publish/https://a.b")):
            answer = await http.request(method, path)
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1, answer.text
            assert list(answer.json()) == ["error"]


async def test_an_error_of_ours_is_500_and_the_log_knows_no_secrets(
    sqlite_store_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller hears that it is not his fault; the log says where it happened; the server goes on."""
    app = TaskQ(broker=f"memory://{prefix}", store=sqlite_store_url)
    api = make_api(app)
    password = "".join(("hun", "ter2"))  # not in one piece: the log shows lines of code

    @api.get("/broken/{what}")
    async def broken(what: str, context: InContext) -> None:
        raise RuntimeError(f"amqp://user:{password}@host/ {type(context).__name__}")

    caplog.set_level(logging.ERROR)
    async with api.router.lifespan_context(api):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://api") as http:
            answer = await http.get("/broken/secret-name?qstash_token=secret-token")
            assert answer.status_code == 500 and list(answer.json()) == ["error"]
            assert (await http.get("/health")).status_code == 200
    assert "RuntimeError" in caplog.text and "in broken" in caplog.text
    for secret in (password, "secret-name", "secret-token"):
        assert secret not in caplog.text and secret not in answer.text
