"""What callers may not say, said to the API: 400 with the header's name, and nothing is sent."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.api.served import Served
from tests.malformed import MALFORMED, URL, Malformed

GOOD = {"destination": URL, "body": "good"}


def item(case: Malformed) -> dict[str, Any]:
    """The case as a message of a batch."""
    headers: dict[str, list[str]] = {}
    for name, value in case.headers:
        headers.setdefault(name, []).append(value)
    return {"destination": case.destination, "body": "bad", "headers": headers}


async def nothing_sent(served: Served, *but: str) -> None:
    events = (await served.answer("GET", "/v2/events"))["events"]
    assert {event["messageId"] for event in events} == {*but}


async def test_published(served: Served) -> None:
    """A publish, an enqueue and a schedule with a fault are refused, and their errors name it."""
    cases = [case for case in MALFORMED if case.sendable and case.destination == URL]
    assert len(cases) > 130
    wrong = []
    for case in cases:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in case.headers]
        for path in ("/v2/publish/", "/v2/enqueue/orders/", "/v2/schedules/"):
            cron = [(b"Upstash-Cron", b"* * * * *")] if "schedules" in path and "Cron" not in case.names else []
            answer = await served.http.post(
                f"{path}{URL}", headers=[*headers, *cron], params=list(case.query), content=b"bad"
            )
            error = answer.json().get("error", "")
            if answer.status_code != 400 or case.names.lower() not in error.lower():
                wrong.append((path, str(case), answer.status_code, answer.text))
    assert wrong == []
    await nothing_sent(served)
    assert await served.answer("GET", "/v2/schedules") == []


async def test_destinations(served: Served) -> None:
    """A destination that is none is refused, with the text that clients of the protocol know where its scheme is."""
    wrong = []
    cases = [case.destination for case in MALFORMED if case.names == "destination" and case.destination.isascii()]
    for text in cases:
        if not text.isprintable() or "#" in text or " " in text or not text:
            continue  # a client escapes them, cuts them off, or calls another path
        answer = await served.http.post(f"/v2/publish/{text}", content=b"bad")
        if answer.status_code != 400 or "destination" not in answer.json()["error"]:
            wrong.append((text, answer.status_code, answer.text))
    assert wrong == []
    known = "invalid destination url: endpoint has invalid scheme, add http:// or https://"
    assert known in await served.refused("POST", "/v2/publish/example.com/hook", 400)
    await nothing_sent(served)


async def test_batched(anywhere: Served) -> None:
    """In a batch each fault is answered in its place, and the messages beside it go."""
    cases = [case for case in MALFORMED if not case.query]
    items = [GOOD, *map(item, cases), GOOD]
    content = json.dumps(items)
    first, *answers, last = await anywhere.answer("POST", "/v2/batch", content=content)
    wrong = [
        (str(case), answer)
        for case, answer in zip(cases, answers, strict=True)
        if case.names.lower() not in str(answer.get("error", "")).lower() or "messageId" in answer
    ]
    assert wrong == []
    await nothing_sent(anywhere, first["messageId"], last["messageId"])
