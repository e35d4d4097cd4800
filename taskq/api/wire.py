"""The form of what the API takes and gives as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
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
