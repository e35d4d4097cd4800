"""What `views` makes, as the API's own document describes it. A field without a value is absent."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from taskq.api.wire import Responses, Wire

HeaderMap = dict[str, list[str]]
Ms = Annotated[int, Field(description="ms since the epoch")]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Shape(Wire):
    """JSON that is given, with these fields alone."""

    model_config = ConfigDict(extra="forbid")


class FlowShape(Shape):
    """Its flow control; `period` in seconds."""

    flow_control_key: str | None = None
    rate: int | None = None
    period: float | None = None
    parallelism: int | None = None


class SentShape(FlowShape):
    """What every form of a message has."""

    message_id: str
    url: str
    method: str
    header: HeaderMap
    topic_name: str | None = None
    endpoint_name: str | None = None
    queue_name: str | None = None
    schedule_id: str | None = None
    label: Annotated[str | None, Field(description="the first of the labels")] = None
    labels: list[str] | None = None
    callback: str | None = None
    failure_callback: str | None = None
    retry_delay_expression: str | None = None


class MessageShape(SentShape):
    """A message. The body is in `bodyBase64` if it is no text."""

    max_retries: int
    not_before: Ms
    created_at: Ms
    caller_ip: Annotated[str, Field(alias="callerIP")]
    body: str | None = None
    body_base64: Base64 | None = None
    callback_header: HeaderMap | None = None
    failure_callback_header: HeaderMap | None = None


class DeadShape(MessageShape):
    """A dead letter, with the last answer of its destination; status 0: there was none."""

    dlq_id: str
    response_status: int
    response_header: HeaderMap
    response_body: str | None = None
    response_body_base64: Base64 | None = None


class EventShape(SentShape):
    """A line of a message's history. An ERROR has the answer of the destination, if there was one."""

    time: Ms
    state: str
    body: Base64
    timeout: Annotated[int | None, Field(description="ms that an attempt may take")] = None
    max_retries: int | None = None
    callback_headers: HeaderMap | None = None
    failure_callback_headers: HeaderMap | None = None
    retry_delay_expr: str | None = None
    error: str | None = None
    next_delivery_time: Ms | None = None
    response_status: int | None = None
    response_body: Base64 | None = None
    response_header: HeaderMap | None = None
    response_headers: HeaderMap | None = None


class Paged(Shape):
    """A page; without a cursor it is the last."""

    cursor: str | None = None


class DeadPage(Paged):
    """Dead letters."""

    messages: list[DeadShape]


class LogPage(Paged):
    """Lines of history."""

    logs: list[EventShape]


class EventPage(Paged):
    """Lines of history."""

    events: list[EventShape]


class Cancelled(Shape):
    """How many messages were cancelled."""

    cancelled: int


class Deleted(Paged):
    """How many dead letters were deleted."""

    deleted: int


class Revived(Shape):
    """The new message of a dead one."""

    message_id: str


class RevivedPage(Paged):
    """The new messages of dead ones."""

    responses: list[Revived]


def giving(shape: type[Shape], status: int = 200) -> Responses:
    """What OpenAPI says of a route that gives it."""
    return {status: {"model": shape, "description": (shape.__doc__ or "").partition(".")[0]}}
