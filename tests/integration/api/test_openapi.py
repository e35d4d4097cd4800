"""The document that describes the API."""

from __future__ import annotations

from typing import Any

from tests.integration.api.served import Served


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): said for path, item in document["paths"].items() for method, said in item.items()}


async def test_every_route_is_described(served: Served) -> None:
    """With a summary, a token, what may come of it, and ids that code can be generated from."""
    document = await served.answer("GET", "/openapi.json")
    found = operations(document)
    assert len(found) > 50
    assert {"token", "tokenInQuery"} == document["components"]["securitySchemes"].keys()
    ids = [said["operationId"] for said in found.values()]
    assert len(set(ids)) == len(ids)
    for (method, path), said in found.items():
        assert said["summary"] and said["description"], path
        assert "422" not in said["responses"], path
        if path in ("/health", "/ready"):
            assert "security" not in said
            continue
        assert {"400", "401", "503"} <= said["responses"].keys() and said["security"], path
        assert ("403" in said["responses"]) == (method != "get"), path


async def test_routes_that_take_a_destination_are_described(served: Served) -> None:
    """Their headers and their bodies, which the code reads by itself."""
    found = operations(await served.answer("GET", "/openapi.json"))
    for path in ("/v2/publish/{destination}", "/v2/enqueue/{queue}/{destination}", "/v2/schedules/{destination}"):
        said = found["post", path]
        headers = {one["name"] for one in said["parameters"] if one["in"] == "header"}
        assert {"Upstash-Method", "Upstash-Retries", "Upstash-Callback"} <= headers
        assert ("Upstash-Cron" in headers) == ("schedules" in path)
        assert said["requestBody"]["content"]


async def test_the_document_says_nothing_that_it_does_not_hold(served: Served) -> None:
    """Every reference leads somewhere."""
    document = await served.answer("GET", "/openapi.json")

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [one for part in value.values() for one in references(part)]
        return [one for part in value for one in references(part)] if isinstance(value, list) else []

    names = {one.removeprefix("#/components/schemas/") for one in references(document)}
    assert names and names <= document["components"]["schemas"].keys()
