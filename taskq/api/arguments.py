"""The arguments that a task takes, as a JSON schema: what a form that calls it has to ask for."""

from __future__ import annotations

import inspect
import json
import typing
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from taskq.task import Task

Schema = dict[str, Any]
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def schema_of(task: Task[..., Any]) -> Schema:
    """An object with a property for each argument, in their order; `{}` for a type that JSON Schema cannot tell of.

    Further positional arguments (`*args`) are told of as `x-positional`, further named ones as `additionalProperties`.
    """
    parameters = inspect.signature(task.function).parameters
    hints = _hints(task)
    schemas, definitions = _schemas({name: hints.get(name, Any) for name in parameters})
    plain = [one for one in parameters.values() if one.kind not in _VARIADIC]
    found: Schema = {
        "type": "object",
        "properties": {one.name: schemas[one.name] | _default(one) for one in plain},
        "required": [one.name for one in plain if one.default is one.empty],
        "additionalProperties": False,
    }
    for one in parameters.values():
        if one.kind is inspect.Parameter.VAR_POSITIONAL:
            found["x-positional"] = schemas[one.name]
        elif one.kind is inspect.Parameter.VAR_KEYWORD:
            found["additionalProperties"] = schemas[one.name]
    return found | ({"$defs": definitions} if definitions else {})


def _hints(task: Task[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(task.function, include_extras=True)
    except NameError:
        return {}


def _schemas(hints: dict[str, Any]) -> tuple[dict[str, Schema], Schema]:
    """The schema of each type, and the definitions that they refer to."""
    adapters = {name: adapter for name, hint in hints.items() if (adapter := _adapter(hint)) is not None}
    inputs = [(name, "validation", adapter) for name, adapter in adapters.items()]
    found, shared = TypeAdapter.json_schemas(inputs)  # type: ignore[arg-type]
    schemas = {name: dict(schema) for (name, _), schema in found.items()}
    return {name: schemas.get(name, {}) for name in hints}, shared.get("$defs", {})


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """None: JSON Schema cannot tell of it."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        adapter.json_schema()
    except PydanticUserError:
        return None
    return adapter


def _default(parameter: inspect.Parameter) -> Schema:
    """Its default, if JSON has it."""
    if parameter.default is parameter.empty:
        return {}
    try:
        return {"default": json.loads(json.dumps(parameter.default, allow_nan=False))}
    except (TypeError, ValueError, RecursionError):
        return {}
