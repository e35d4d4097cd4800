"""URL groups: what is published to one goes to each of its members."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from taskq.api.context import InContext
from taskq.api.errors import NotFound, PlanLimit
from taskq.api.wire import BAD, LIMIT, MISSING, Done, Wire
from taskq.clock import to_ms
from taskq.errors import InvalidRequest
from taskq.http.destination import check_name, destination
from taskq.http.publishing import read
from taskq.http.request import Headers
from taskq.store.gateway import Endpoint, GroupRecord

router = APIRouter(prefix="/v2/topics", tags=["URL groups"])

MOST_ENDPOINTS = 1000

Name = Annotated[str, Path(description="The group's name: letters, digits, '.', '-' and '_'.")]


class EndpointWanted(Wire):
    """A member as it is to be."""

    url: str
    name: str | None = None


class EndpointsWanted(Wire):
    """Members to add or to change."""

    endpoints: Annotated[list[EndpointWanted], Field(min_length=1, max_length=MOST_ENDPOINTS)]


class EndpointNamed(Wire):
    """A member, by url or by name, or by both."""

    url: str | None = None
    name: str | None = None


class EndpointsNamed(Wire):
    """Members to remove."""

    endpoints: Annotated[list[EndpointNamed], Field(min_length=1, max_length=MOST_ENDPOINTS)]


class HeadersWanted(Wire):
    """Headers that what is published to the group is sent with: a value, or several."""

    headers: dict[str, str | list[str]]


class EndpointShown(Wire):
    """A member."""

    url: str
    name: str | None = None


class GroupShown(Wire):
    """A group. Instants in ms since the epoch."""

    name: str
    created_at: int
    updated_at: int
    endpoints: list[EndpointShown]


@router.get("", response_model_exclude_none=True)
@router.get("/", include_in_schema=False, response_model_exclude_none=True)
async def list_groups(context: InContext) -> list[GroupShown]:
    """List all groups, by name."""
    return [_shown(record) for record in await (await context.store()).list_groups()]


@router.get("/{name}", responses=BAD | MISSING, response_model_exclude_none=True)
async def get_group(name: Name, context: InContext) -> GroupShown:
    """Show one group."""
    record = await (await context.store()).get_group(_checked(name))
    if record is None:
        raise _unknown(name)
    return _shown(record)


@router.patch("/{name}", responses=BAD | MISSING)
async def set_headers(name: Name, wanted: HeadersWanted, context: InContext) -> Done:
    """Set the group's headers, all of them."""
    headers = _headers(wanted)
    if await (await context.store()).set_group_headers(_checked(name), headers) is None:
        raise _unknown(name)
    return Done()


@router.delete("/{name}", responses=BAD)
async def delete_group(name: Name, context: InContext) -> Done:
    """Delete a group. It is fine if there is none; what was published to it goes on."""
    await (await context.store()).delete_group(_checked(name))
    return Done()


@router.post("/{name}/endpoints", responses=BAD | LIMIT)
async def add_endpoints(name: Name, wanted: EndpointsWanted, context: InContext) -> Done:
    """Add members, making the group if there is none; one with a known url or name is changed."""
    endpoints = [_endpoint(one) for one in wanted.endpoints]
    store = await context.store()
    record = await store.get_group(_checked(name))
    if record is not None and len(record.endpoints) + len(endpoints) > MOST_ENDPOINTS:
        known = {one.url for one in record.endpoints} | {one.url for one in endpoints}
        if len(known) > MOST_ENDPOINTS:
            raise PlanLimit(f"a URL group has at most {MOST_ENDPOINTS} endpoints")
    await store.add_endpoints(name, endpoints)
    return Done()


@router.delete("/{name}/endpoints", responses=BAD | MISSING)
async def remove_endpoints(name: Name, wanted: EndpointsNamed, context: InContext) -> Done:
    """Remove members; a group that loses its last one is deleted."""
    for one in wanted.endpoints:
        if one.url is None and one.name is None:
            raise InvalidRequest("endpoints: each names a member by its url or its name, and one has neither")
    store = await context.store()
    if await store.get_group(_checked(name)) is None:
        raise _unknown(name)
    await store.remove_endpoints(name, [(one.url, one.name) for one in wanted.endpoints])
    return Done()


def _checked(name: str) -> str:
    return check_name("URL group", name)


def _unknown(name: str) -> NotFound:
    return NotFound(f"no URL group is named {name!r}")


def _endpoint(wanted: EndpointWanted) -> Endpoint:
    found = destination(wanted.url)
    if found.kind not in ("url", "task"):
        raise InvalidRequest(f"endpoints: url must be http://, https:// or task://, got {wanted.url!r:.80}")
    return Endpoint(found.text, None if wanted.name is None else check_name("endpoint", wanted.name))


def _headers(wanted: HeadersWanted) -> Headers:
    """The headers, which must be such as a publish may have."""
    pairs = tuple(
        (name, value)
        for name, given in wanted.headers.items()
        for value in ([given] if isinstance(given, str) else given)
    )
    read((), defaults=pairs)
    return pairs


def _shown(record: GroupRecord) -> GroupShown:
    return GroupShown(
        name=record.name,
        created_at=to_ms(record.created_at),
        updated_at=to_ms(record.updated_at),
        endpoints=[EndpointShown(url=one.url, name=one.name) for one in record.endpoints],
    )
