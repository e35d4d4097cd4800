"""What callers say of which messages they mean."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.api.selection import DEAD_IDS, FILTERS, NO_FILTERS, STATUS, Selection, said
from taskq.clock import to_ms
from taskq.errors import InvalidRequest


def test_values_may_be_repeated_or_joined_by_commas() -> None:
    """Both forms of a filter with several values mean the same, and nothing is meant twice."""
    selection = Selection(
        [("label", "a,b"), ("label", "c"), ("label", "b"), ("messageIds", "m1,m2"), ("messageId", "m3")]
    )
    which = selection.requests()
    assert which.labels == ("a", "b", "c")
    assert which.ids == ("m1", "m2", "m3")


def test_a_comma_within_a_url_or_a_path_does_not_part_it() -> None:
    """Only a comma before another URL, or another path, joins two."""
    selection = Selection([("url", "https://a.example/x,y?z=1,2,http://b.example"), ("path", "/a,b,/c")])
    which = selection.requests()
    assert which.urls == ("https://a.example/x,y?z=1,2", "http://b.example")
    assert which.paths == ("/a,b", "/c")


def test_every_filter_has_its_field_and_both_spellings_of_the_callers_address_count() -> None:
    """Each parameter selects by the condition of its name."""
    names = "topicName queueName host flowControlKey scheduleId callerIp callerIP".split()
    which = Selection([(name, f"{name}-value") for name in names]).requests(cancellable=True)
    assert which.topics == ("topicName-value",)
    assert which.queues == ("queueName-value",)
    assert which.hosts == ("host-value",)
    assert which.flow_keys == ("flowControlKey-value",)
    assert which.schedule_ids == ("scheduleId-value",)
    assert which.caller_ips == ("callerIp-value", "callerIP-value")
    assert which.unfinished and which.uncancelled


def test_instants_are_in_ms_and_whatever_is_shown_as_that_ms_is_meant() -> None:
    """Instants are shown rounded to ms: both bounds include what is rounded to them."""
    which = Selection([("fromDate", "1777896000250"), ("toDate", "1777896000250")]).requests()
    assert which.since is not None
    assert which.until is not None
    for microseconds in (249_501, 250_000, 250_499):
        instant = datetime(2026, 5, 4, 12, 0, 0, microseconds, UTC)
        assert to_ms(instant) == 1777896000250
        assert which.since <= instant <= which.until
    for microseconds in (249_499, 250_501):
        assert not which.since <= datetime(2026, 5, 4, 12, 0, 0, microseconds, UTC) <= which.until


def test_an_empty_cursor_is_none_and_unknown_parameters_are_passed_over() -> None:
    """Clients send what they have; nothing of it is in the way."""
    selection = Selection([("cursor", ""), ("colour", "red")])
    assert selection.cursor() is None
    assert selection.requests() == Selection([]).requests()
    assert selection.count(most=100, default=100) == 100
    assert not selection.oldest_first(default=False)
    assert Selection([("order", "earliestFirst")]).oldest_first(default=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "0"),
        ("count", "101"),
        ("count", "-1"),
        ("count", "ten"),
        ("count", "1_0"),
        ("count", "\u0665"),
        ("count", "9" * 30),
        ("count", ""),
        ("order", "newest"),
        ("fromDate", "yesterday"),
        ("toDate", "1e9"),
        ("toDate", "999999999999999"),
        ("label", ""),
        ("label", "a,,b"),
        ("messageIds", ","),
        ("responseStatus", "5xx"),
        ("responseStatus", "5000"),
        ("url", "a\x00b"),
        ("url", "\ud800"),
        ("messageIds", ",".join(f"m{n}" for n in range(501))),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(name: str, value: str) -> None:
    """The error names the parameter."""
    with pytest.raises(InvalidRequest, match=name):
        selection = Selection([(name, value)])
        selection.count(most=100, default=100)
        selection.oldest_first(default=True)
        selection.statuses()
        selection.requests()


def test_two_different_values_of_a_parameter_that_takes_one_are_refused() -> None:
    """Which of the two was meant cannot be told."""
    with pytest.raises(InvalidRequest, match="count"):
        Selection([("count", "1"), ("count", "2")]).count(most=100, default=100)


def test_ids_of_a_body_are_meant_and_an_empty_list_means_none() -> None:
    """The list of ids is read from a JSON body, and told apart from no list at all."""
    selection, lists = said([], b'{"messageIds": ["m1", "m2"]}')
    assert selection.many("messageIds") == ("m1", "m2")
    assert lists == {"messageIds": ["m1", "m2"]}
    assert said([], b'{"dlqIds": []}')[1] == {"dlqIds": []}
    assert said([], b" ")[1] == {}


def test_filters_of_a_body_are_filters() -> None:
    """A body may hold what the query may."""
    selection, _ = said([("label", "a")], b'{"label": "b", "fromDate": 1777896000250, "url": ["https://a.example"]}')
    which = selection.requests()
    assert which.labels == ("a", "b")
    assert which.urls == ("https://a.example",)
    assert which.since is not None


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"\xff", b'{"messageIds": null}', b'{"messageIds": [{}]}', b'{"label": []}',
     b'{"count": true}', b'{"messageIds": "\\ud800"}', b"[" * 100_000],
)  # fmt: skip
def test_a_body_that_is_no_object_of_filters_is_refused(body: bytes) -> None:
    """Nothing is guessed about what a bulk call means."""
    with pytest.raises(InvalidRequest):
        said([], body)


def test_a_misspelled_filter_does_not_mean_everything() -> None:
    """A bulk call without a known filter means all, unless it says what might have been one."""
    with pytest.raises(InvalidRequest, match="lable"):
        Selection([("lable", "a"), ("count", "100")]).check_bulk()
    with pytest.raises(InvalidRequest, match="dlqId"):
        Selection([("dlqId", "1-a")]).check_bulk(also=("dlqIds",))
    Selection([("count", "100"), ("cursor", ""), ("upstash-retries", "1"), ("qstash_token", "t")]).check_bulk()
    Selection([("label", "a"), ("colour", "red")]).check_bulk()
    Selection([("dlqIds", "1-a"), ("colour", "red")]).check_bulk(also=("dlqIds",))


NAME = st.sampled_from(sorted(FILTERS | NO_FILTERS | {DEAD_IDS, STATUS, "state", "upstash-retries"})) | st.text(
    max_size=9
)
VALUE = st.sampled_from(["1", "500", "a,b", "https://a,https://b", "CANCELED", "earliestFirst", "[1,2]"]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | VALUE, lambda some: st.lists(some, max_size=3), max_leaves=4
)
BODY = st.binary(max_size=20) | st.dictionaries(NAME, JSON, max_size=3).map(lambda given: json.dumps(given).encode())


@given(st.lists(st.tuples(NAME, VALUE), max_size=4), BODY)
def test_whatever_is_said_is_understood_or_refused(pairs: list[tuple[str, str]], body: bytes) -> None:
    """No query and no body does anything but mean something, or be named as what cannot be."""
    for ask in (
        lambda selection: selection.requests(),
        lambda selection: selection.states(),
        lambda selection: selection.statuses(),
        lambda selection: selection.count(most=100, default=100),
        lambda selection: selection.oldest_first(default=True),
        lambda selection: selection.cursor(),
        lambda selection: selection.check_bulk(),
    ):
        with contextlib.suppress(InvalidRequest):
            ask(said(pairs, body)[0])
