"""Values that no store and no broker likes, in every place where a caller can put them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.api.served import Served

ODD = {
    "NUL": "a%00b",
    "no UTF-8": "%ff%fe",
    "a surrogate": "%ed%a0%80",
    "beyond the BMP": "%f0%9f%90%87",
    "quotes": "'%22%3B--",
    "wildcards": "%25_%5C*",
    "very long": "x" * 20_000,
    "a line's end": "a%0d%0ab",
    "dots": "..",
    "a number": "9" * 400,
}
IN_PATH = (
    "GET /v2/queues/{}", "DELETE /v2/queues/{}", "POST /v2/queues/{}/pause", "GET /v2/topics/{}",
    "DELETE /v2/topics/{}",
    "GET /v2/flowControl/{}", "POST /v2/flowControl/{}/pause", "POST /v2/flowControl/{}/resetRate",
    "GET /v2/messages/{}", "DELETE /v2/messages/{}", "GET /v2/dlq/{}", "DELETE /v2/dlq/{}", "POST /v2/dlq/retry/{}",
    "GET /v2/schedules/{}", "DELETE /v2/schedules/{}", "PATCH /v2/schedules/{}/pause", "GET /admin/tasks/{}",
    "GET /admin/queues/{}", "POST /admin/queues/{}/purge", "GET /admin/messages/{}", "POST /admin/messages/{}/cancel",
    "GET /admin/dlq/{}", "POST /admin/dlq/{}/retry", "DELETE /admin/dlq/{}", "POST /v2/publish/{}",
    "POST /v2/publish/https://{}", "POST /v2/publish/task://{}", "POST /v2/publish/https://a.example/?q={}",
    "POST /v2/enqueue/{}/https://a.example", "POST /v2/schedules/{}",
)  # fmt: skip
IN_QUERY = (
    "GET /v2/dlq?cursor={}", "GET /v2/events?cursor={}", "GET /v2/logs?messageId={}&url={}&label={}",
    "GET /v2/dlq?url={}",
    "GET /v2/events?fromDate={}", "DELETE /v2/messages?messageIds={}", "DELETE /v2/dlq?dlqIds={}",
    "GET /v2/flowControl?search={}", "POST /v2/flowControl/k/pin?period={}", "GET /admin/messages?queue={}",
    "GET /admin/messages?cursor={}", "GET /admin/messages?since={}", "GET /admin/dlq?text={}&reason={}",
    "GET /admin/dlq?cursor={}", "DELETE /admin/dlq?ids={}", "DELETE /admin/dlq?text={}", "POST /admin/dlq/retry?ids={}",
    "POST /v2/publish/https://a.example?upstash-label={}", "POST /v2/publish/https://a.example?upstash-{}=1",
)  # fmt: skip


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
async def test_odd_values_in_paths_and_queries(anywhere: Served, value: str) -> None:
    """They are refused, not found, or taken as they are; never too much for the server."""
    for place in (*IN_PATH, *IN_QUERY):
        method, _, path = place.replace("{}", value).partition(" ")
        answer = await anywhere.http.request(method, path)
        assert answer.status_code < 500, (place, answer.text)
        assert answer.status_code < 400 or list(answer.json()) == ["error"], (place, answer.text)


BODIES: dict[str, Any] = {
    "POST /v2/queues": {"queueName": "{}"},
    "POST /v2/topics/g/endpoints": {"endpoints": [{"url": "https://a.example/{}", "name": "{}"}]},
    "DELETE /v2/topics/g/endpoints": {"endpoints": [{"url": "{}"}, {"name": "{}"}]},
    "PATCH /v2/topics/g": {"headers": {"{}": "{}"}},
    "DELETE /v2/messages": {"messageIds": ["{}"]},
    "DELETE /v2/dlq": {"dlqIds": ["{}"]},
    "POST /v2/dlq/retry": {"dlqIds": ["{}"]},
    "POST /admin/dlq/x/retry": {"args": ["{}"], "kwargs": {"{}": "{}"}},
    "POST /v2/batch": [{"destination": "https://a.example", "body": "{}", "headers": {"Upstash-Label": "{}"}}],
}
TEXTS = {"NUL": "\\u0000", "a surrogate": "\\ud800", "very long": "x" * 20_000, "a number": "9" * 400}


@pytest.mark.parametrize("value", TEXTS.values(), ids=TEXTS)
async def test_odd_values_in_bodies(anywhere: Served, value: str) -> None:
    """The same of JSON."""
    await anywhere.answer("POST", "/v2/topics/g/endpoints", json={"endpoints": [{"url": "https://a.example/first"}]})
    for place, body in BODIES.items():
        method, _, path = place.partition(" ")
        content = json.dumps(body).replace("{}", value).encode()
        answer = await anywhere.http.request(
            method, path, content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code < 500, (place, answer.text)
