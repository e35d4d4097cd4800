"""Records as QStash's answers show them, read by the official Python client's own parsers."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qstash.dlq import parse_dlq_message_response
from qstash.log import LogState, parse_logs_response
from qstash.message import parse_message_response

from taskq.api.answer import answer
from taskq.api.shapes import DeadShape, EventShape, MessageShape
from taskq.api.views import dead_view, event_view, message_view
from taskq.flow import Flow
from taskq.http.request import HTTP_TASK, PAYLOAD_TYPE, Callback, Request, Response
from taskq.message import Message
from taskq.queue import RateLimit
from taskq.retry import Retry
from taskq.store.base import DeadLetter, LogEntry
from taskq.store.gateway import Event

AT = datetime(2026, 5, 4, 12, 0, 0, 250_000, UTC)
AT_MS = 1_777_896_000_250
PLAIN = Request(url="https://example.com/in?a=1", headers=(("content-type", "text/plain"), ("x-two", "1")), body=b"hi")
FULL = replace(
    PLAIN,
    method="PUT",
    headers=(*PLAIN.headers, ("X-Two", "2")),
    callback=Callback(
        "https://example.com/done", (("Method", "PUT"), ("Forward-x-back", "b"), ("forward-X-Back", "c"))
    ),
    failure_callback=Callback("https://example.com/failed", (("Retries", "1"),)),
    topic="group",
    endpoint="first",
    schedule_id="scd_1",
    queue_name="orders",
    caller_ip="203.0.113.9",
    labels=("one", "two"),
    retry_delay="1000 * (1 + retried)",
    not_before=AT_MS + 60_000,
)


def message(request: Request = PLAIN, **fields: object) -> Message:
    plain = Message(
        id="msg_1", task=HTTP_TASK, queue="http", payload=request.encode(), payload_type=PAYLOAD_TYPE, created_at=AT
    )
    return replace(plain, **fields)


def letter(dead: Message | None, response: bytes | None) -> DeadLetter:
    return DeadLetter(
        id="1777896000250-abc",
        message_id="msg_1",
        queue="http",
        task=HTTP_TASK,
        reason="failed",
        attempts=4,
        failure=None,
        worker="w",
        died_at=AT,
        body=b"",
        content_type=None,
        message=dead,
        response=response,
    )


def test_a_plain_message_has_the_fields_that_clients_index_and_none_that_was_not_set() -> None:
    """What was not said is absent, not null; the url, method, retries and instants are always there."""
    view = message_view(message())
    assert view == {
        "messageId": "msg_1",
        "url": "https://example.com/in?a=1",
        "method": "POST",
        "header": {"Content-Type": ["text/plain"], "X-Two": ["1"]},
        "body": "hi",
        "maxRetries": 3,
        "notBefore": AT_MS,
        "createdAt": AT_MS,
        "callerIP": "",
    }


def test_the_official_client_reads_every_field_of_a_message() -> None:
    """Everything that a sender can say comes out of the client's parser as it was said."""
    flow = Flow("tenant", parallelism=5, rate_limit=RateLimit(10, 60.0))
    view = message_view(message(FULL, retry=Retry(max_retries=7), flow=flow))
    assert view is not None
    read = parse_message_response(json.loads(json.dumps(view)))
    assert (read.message_id, read.url, read.method) == ("msg_1", FULL.url, "PUT")
    assert (read.url_group, read.endpoint, read.queue, read.schedule_id) == ("group", "first", "orders", "scd_1")
    assert read.headers == {"Content-Type": ["text/plain"], "X-Two": ["1", "2"]}
    assert (read.body, read.body_base64, read.caller_ip) == ("hi", None, "203.0.113.9")
    assert (read.max_retries, read.not_before, read.created_at) == (7, AT_MS + 60_000, AT_MS)
    assert (read.callback, read.callback_headers) == ("https://example.com/done", {"X-Back": ["b", "c"]})
    assert (read.failure_callback, read.failure_callback_headers) == ("https://example.com/failed", None)
    assert (read.label, view["labels"]) == ("one", ["one", "two"])
    assert read.retry_delay_expression == "1000 * (1 + retried)"
    assert read.flow_control is not None
    found = (read.flow_control.key, read.flow_control.parallelism, read.flow_control.rate, read.flow_control.period)
    assert found == ("tenant", 5, 10, 60)


@pytest.mark.parametrize(
    ("flow", "shown"),
    [
        (Flow("k", parallelism=5), {"flowControlKey": "k", "parallelism": 5, "period": 1}),
        (Flow("k", rate_limit=RateLimit(23, 5403)), {"flowControlKey": "k", "rate": 23, "period": 5403}),
        (Flow("k"), {"flowControlKey": "k", "period": 1}),
    ],
)
def test_a_limit_that_was_not_given_is_absent_and_the_period_is_always_there(flow: Flow, shown: dict) -> None:
    """Clients tell limits that were not given by their absence."""
    view = message_view(message(flow=flow)) or {}
    assert {name: view[name] for name in view if name in ("flowControlKey", "parallelism", "rate", "period")} == shown


@pytest.mark.parametrize("body", [b"\xff\x00raw", b"\x80"])
def test_a_body_that_is_not_text_is_shown_as_base64_alone(body: bytes) -> None:
    """Bytes that are no UTF-8 come back whole."""
    view = message_view(message(replace(PLAIN, body=body))) or {}
    assert "body" not in view
    assert base64.b64decode(view["bodyBase64"]) == body


def test_redacted_parts_are_shown_as_their_hash_everywhere() -> None:
    """A redacted body and header show in no answer."""
    secret = replace(PLAIN, redact=("body", "header:X-Two"))
    hidden = "REDACTED:" + hashlib.sha256(b"hi").hexdigest()
    entry = LogEntry("msg_1", AT, "CREATED")
    view = message_view(message(secret)) or {}
    dead = dead_view(letter(message(secret), None)) or {}
    event = event_view(Event(entry, message(secret)), timeout=900)
    assert view["body"] == dead["body"] == base64.b64decode(event["body"]).decode() == hidden
    for one in (view, dead, event):
        assert one["header"]["X-Two"] == ["REDACTED:" + hashlib.sha256(b"1").hexdigest()]
        assert one["header"]["Content-Type"] == ["text/plain"]


def test_messages_of_python_tasks_and_damaged_requests_are_not_shown() -> None:
    """Only what came as a request, and can be read, is a message of the protocol."""
    task = message(payload=b"\x90", payload_type="application/msgpack")
    damaged = message(payload=b"damaged")
    for one in (task, damaged):
        assert message_view(one) is None
        assert dead_view(letter(one, None)) is None
    assert dead_view(letter(None, None)) is None


def test_a_dead_letter_shows_the_last_answer() -> None:
    """Status, headers and body of what came back are read by the client's parser."""
    response = Response(503, (("retry-after", "7"), ("x-a", "1"), ("X-A", "2")), b"sorry")
    view = dead_view(letter(message(FULL), response.encode()))
    assert view is not None
    read = parse_dlq_message_response(json.loads(json.dumps(view)))
    assert (read.dlq_id, read.message_id, read.url_group) == ("1777896000250-abc", "msg_1", "group")
    assert (read.response_status, read.response_body, read.response_body_base64) == (503, "sorry", None)
    assert read.response_headers == {"Retry-After": ["7"], "X-A": ["1", "2"]}
    binary = dead_view(letter(message(), Response(500, (), b"\xff").encode())) or {}
    assert (binary["responseBodyBase64"], "responseBody" in binary) == ("/w==", False)


@pytest.mark.parametrize("response", [None, Response(0).encode(), b"damaged"])
def test_a_dead_letter_without_an_answer_has_status_0(response: bytes | None) -> None:
    """Clients index the status: it is there when nothing came."""
    view = dead_view(letter(message(), response)) or {}
    assert (view["responseStatus"], view["responseHeader"]) == (0, {})
    assert not {"responseBody", "responseBodyBase64"} & set(view)


def test_an_attempt_that_failed_shows_what_came_back_in_both_spellings() -> None:
    """An ERROR has its text, status, body and headers; the delay expression is there in both spellings."""
    response = Response(418, (("x-pot", "tea"),), b"short")
    entry = LogEntry("msg_1", AT, "ERROR", attempt=1, detail="418: no coffee", response=response.encode())
    view = event_view(Event(entry, message(FULL, timeout=30.0, retry=Retry(max_retries=2))), timeout=900)
    [read] = parse_logs_response([json.loads(json.dumps(view))])
    assert (read.time, read.message_id, read.state) == (AT_MS, "msg_1", LogState.ERROR)
    assert (read.error, read.response_status, read.response_headers) == ("418: no coffee", 418, {"X-Pot": ["tea"]})
    assert view["responseHeaders"] == {"X-Pot": ["tea"]}
    assert base64.b64decode(read.response_body or "") == b"short"
    assert base64.b64decode(read.body_base64 or "") == b"hi"
    assert (read.timeout, read.max_retries, read.method) == (30_000, 2, "PUT")
    assert read.retry_delay_expression == view["retryDelayExpression"] == "1000 * (1 + retried)"
    assert read.callback_headers == {"X-Back": ["b", "c"]}
    assert (read.queue, read.schedule_id, read.url_group, read.endpoint) == ("orders", "scd_1", "group", "first")


def test_a_delivery_does_not_show_the_answer_and_a_retry_shows_when() -> None:
    """Only errors carry an answer; a line of a retry carries the next instant."""
    delivered = LogEntry("msg_1", AT, "DELIVERED", response=Response(200, (), b"ok").encode())
    view = event_view(Event(delivered, message()), timeout=900)
    assert not {"responseStatus", "responseBody", "responseHeader", "error"} & set(view)
    retry = LogEntry("msg_1", AT, "RETRY", next_at=AT + timedelta(seconds=12))
    view = event_view(Event(retry, message()), timeout=900)
    assert view["nextDeliveryTime"] == AT_MS + 12_000
    assert view["timeout"] == 900_000


@pytest.mark.parametrize(
    "state",
    "CREATED ACTIVE ERROR RETRY SNOOZED DELIVERED FAILED EXPIRED CANCEL_REQUESTED CANCELED".split(),
)
def test_the_client_knows_every_state(state: str) -> None:
    """The client refuses words that it does not know: each state of ours is one of its own."""
    entry = LogEntry("msg_1", AT, state)
    [read] = parse_logs_response([event_view(Event(entry, message()), timeout=900)])
    assert read.state.value == {"SNOOZED": "RETRY", "EXPIRED": "FAILED"}.get(state, state)


def test_the_documents_spelling_of_cancelled_is_shown_where_it_is_asked_for() -> None:
    """Clients say CANCELED, the protocol's document CANCELLED."""
    event = Event(LogEntry("msg_1", AT, "CANCELED"), message())
    assert event_view(event, timeout=900)["state"] == "CANCELED"
    assert event_view(event, cancelled="CANCELLED", timeout=900)["state"] == "CANCELLED"


def test_a_line_whose_message_was_pruned_is_still_readable() -> None:
    """The url is empty, and the client reads the line."""
    [read] = parse_logs_response([event_view(Event(LogEntry("msg_9", AT, "CREATED"), None), timeout=900)])
    assert (read.message_id, read.url, read.headers) == ("msg_9", "", {})


def test_what_is_shown_is_what_the_apis_document_describes() -> None:
    """Every field of an answer is described, and every field that is always there is."""
    flow = Flow("k", parallelism=1, rate_limit=RateLimit(1))
    sent = message(FULL, flow=flow, timeout=1.0)
    error = LogEntry("m", AT, "ERROR", detail="x", response=Response(500).encode(), next_at=AT)
    binary = message(replace(PLAIN, body=b"\xff"))
    shown = [
        (MessageShape, [message_view(sent), message_view(message()), message_view(binary)]),
        (DeadShape, [dead_view(letter(sent, Response(500, (), b"\xff").encode())), dead_view(letter(message(), None))]),
        (EventShape, [event_view(Event(error, sent), timeout=900), event_view(Event(error, None), timeout=900)]),
    ]
    for shape, views in shown:
        for view in views:
            assert shape.model_validate(view).model_dump(by_alias=True, exclude_unset=True) == view


HEADER_TEXT = st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n\x00"), max_size=8)
HEADERS = st.lists(st.tuples(HEADER_TEXT, HEADER_TEXT), max_size=3).map(tuple)
CALLBACKS = st.none() | st.builds(Callback, st.text(), HEADERS)
REQUESTS = st.builds(
    Request,
    url=st.text(),
    headers=HEADERS,
    body=st.binary(max_size=9),
    callback=CALLBACKS,
    failure_callback=CALLBACKS,
    topic=st.none() | st.text(min_size=1),
    labels=st.lists(st.text(), max_size=2).map(tuple),
    redact=st.sampled_from([(), ("body",), ("headers",), ("header:X",)]),
    retry_delay=st.none() | st.text(min_size=1),
    not_before=st.none() | st.integers(1, 2**40),
)


@given(
    REQUESTS,
    st.binary(max_size=20) | st.builds(Response, st.integers(0, 999), HEADERS, st.binary()).map(Response.encode),
)
def test_every_request_can_be_shown_as_json(request: Request, response: bytes) -> None:
    """Whatever a sender said and a destination answered, the answer is JSON, and as it is described."""
    sent = message(request)
    shown = [
        (MessageShape, message_view(sent)),
        (DeadShape, dead_view(letter(sent, response))),
        (EventShape, event_view(Event(LogEntry("msg_1", AT, "ERROR", response=response), sent), timeout=1)),
    ]
    for shape, view in shown:
        shape.model_validate(json.loads(answer(view).body))
