"""The form of what the API takes and gives as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from taskq.api.errors import Problem

Responses = dict[int | str, dict[str, object]]

BAD: Responses = {400: {"model": Problem, "description": "A value that cannot be; the text names it"}}
MISSING: Responses = {404: {"model": Problem, "description": "Nothing of that name or id"}}
CONFLICT: Responses = {409: {"model": Problem, "description": "Not possible as things stand"}}
LIMIT: Responses = {412: {"model": Problem, "description": "More than there may be"}}


class Wire(BaseModel):
    """JSON with names in camelCase; fields that it does not know are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class Done(BaseModel):
    """It is done, and there is nothing to tell."""


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("no text has a NUL")
    return value


def _instant(value: datetime) -> datetime:
    value = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if not 1970 <= value.year <= 9998:
        raise ValueError("must be an instant of the years 1970 to 9998")
    return value.astimezone(UTC)


Text = Annotated[str, AfterValidator(_text)] | None
Instant = Annotated[datetime, AfterValidator(_instant)] | None


class Listing(BaseModel):
    """A page of a listing: `cursor` says where it begins, as the page before told."""

    cursor: Annotated[str, Field(max_length=1000)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
