"""URL groups over HTTP."""

from __future__ import annotations

from typing import Any

from qstash.url_group import parse_url_group_response

from tests.integration.api.served import Served

ONE, TWO, THREE = "https://one.example/in", "https://two.example/in?a=b", "task://sums.add"


async def members(served: Served, name: str = "group") -> list[tuple[str, str | None]]:
    found = parse_url_group_response(await served.answer("GET", f"/v2/topics/{name}"))
    return [(one.url, one.name) for one in found.endpoints]


async def add(served: Served, *endpoints: dict[str, Any], name: str = "group") -> None:
    await served.answer("POST", f"/v2/topics/{name}/endpoints", json={"endpoints": list(endpoints)})


async def test_members_are_added_changed_and_removed(anywhere: Served) -> None:
    """By url or by name; the last one takes the group with it."""
    await add(anywhere, {"url": ONE, "name": "first"}, {"url": TWO})
    assert await members(anywhere) == [(ONE, "first"), (TWO, None)]
    await add(anywhere, {"url": THREE, "name": "first"}, {"url": TWO, "name": "second"})
    assert await members(anywhere) == [(THREE, "first"), (TWO, "second")]
    await add(anywhere, {"url": ONE}, name="another")
    listed = [parse_url_group_response(one) for one in await anywhere.answer("GET", "/v2/topics")]
    assert [one.name for one in listed] == ["another", "group"]
    assert all(0 < one.created_at <= one.updated_at for one in listed)
    path = "/v2/topics/group/endpoints"
    await anywhere.answer("DELETE", path, json={"endpoints": [{"name": "first"}, {"name": "unknown"}]})
    assert await members(anywhere) == [(TWO, "second")]
    await anywhere.answer("DELETE", path, json={"endpoints": [{"url": TWO}]})
    await anywhere.refused("GET", "/v2/topics/group", 404)
    for _ in range(2):
        await anywhere.answer("DELETE", "/v2/topics/another")
    assert await anywhere.answer("GET", "/v2/topics") == []


async def test_a_member_without_a_name_shows_none(served: Served) -> None:
    """The field is absent, as the protocol has it."""
    await add(served, {"url": ONE})
    assert (await served.answer("GET", "/v2/topics/group"))["endpoints"] == [{"url": ONE}]


async def test_what_is_published_to_a_group_has_its_headers(served: Served) -> None:
    """One message for each member; a header of the publish wins over the group's."""
    await add(served, {"url": ONE, "name": "first"}, {"url": TWO})
    headers = {"X-Team": "blue", "X-Several": ["a", "b"], "Upstash-Retries": "7"}
    await served.answer("PATCH", "/v2/topics/group", json={"headers": headers})
    sent = await served.answer("POST", "/v2/publish/group", content=b"x", headers={"Upstash-Forward-X-Team": "red"})
    assert [one["url"] for one in sent] == [ONE, TWO]
    for one, endpoint in zip(sent, ("first", None), strict=True):
        message = await served.answer("GET", f"/v2/messages/{one['messageId']}")
        assert (message["topicName"], message.get("endpointName"), message["maxRetries"]) == ("group", endpoint, 7)
        assert message["header"]["X-Team"] == ["red"] and message["header"]["X-Several"] == ["a", "b"]


async def test_a_group_has_at_most_a_thousand_members(served: Served) -> None:
    """More are refused, and the group stays as it is; one that is known may be said again."""
    await add(served, *({"url": f"{ONE}/{number}"} for number in range(1000)))
    await add(served, {"url": f"{ONE}/0", "name": "zero"})
    body = {"endpoints": [{"url": TWO}]}
    assert "1000" in await served.refused("POST", "/v2/topics/group/endpoints", 412, json=body)
    assert len(await members(served)) == 1000
