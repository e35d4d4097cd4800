"""What of a request may be shown."""

from __future__ import annotations

import hashlib

import pytest

from taskq.http.redaction import shown
from taskq.http.request import Callback, Request

CALLBACK = Callback("https://example.com/cb", (("Method", "PUT"), ("Forward-authorization", "c"), ("Forward-X", "x")))
REQUEST = Request(
    "https://example.com",
    headers=(("Content-Type", "a/b"), ("authorization", "Bearer \xe9")),
    body=b"\xffsecret",
    callback=CALLBACK,
    failure_callback=CALLBACK,
)


def hidden(data: bytes) -> str:
    return f"REDACTED:{hashlib.sha256(data).hexdigest()}"


def asked(*redact: str) -> Request:
    return shown(Request(**{name: getattr(REQUEST, name) for name in Request.__slots__} | {"redact": redact}))


def test_nothing_hidden() -> None:
    """A request that hides nothing is shown as it is."""
    assert shown(REQUEST) is REQUEST


def test_body() -> None:
    """A body is shown as its hash; headers stay."""
    found = asked("body")
    assert found.body == hidden(b"\xffsecret").encode()
    assert (found.headers, found.callback, found.url) == (REQUEST.headers, CALLBACK, REQUEST.url)


def test_headers() -> None:
    """All headers are shown as hashes of their bytes, those of the callbacks too; the callbacks' settings stay."""
    found = asked("headers")
    assert found.headers == (("Content-Type", hidden(b"a/b")), ("authorization", hidden(b"Bearer \xe9")))
    said = (("Method", "PUT"), ("Forward-authorization", hidden(b"c")), ("Forward-X", hidden(b"x")))
    assert found.callback is not None and found.callback.headers == said
    assert found.failure_callback is not None and found.failure_callback.headers == said
    assert found.body == REQUEST.body


def test_one_header() -> None:
    """A header that is named is hidden whatever its case, and the others stay."""
    found = asked("header:Authorization")
    assert found.headers == (("Content-Type", "a/b"), ("authorization", hidden(b"Bearer \xe9")))
    assert found.callback is not None
    assert found.callback.headers == (("Method", "PUT"), ("Forward-authorization", hidden(b"c")), ("Forward-X", "x"))


@pytest.mark.parametrize("redact", [("body",), ("headers",), ("body", "headers"), ("header:Authorization", "body")])
def test_nothing_of_it_is_left(redact: tuple[str, ...]) -> None:
    """No part of a hidden value is in what is shown."""
    text = asked(*redact).encode()
    assert (b"secret" in text) == ("body" not in redact)
    assert ("Bearer é".encode() in text) == (redact == ("body",))
