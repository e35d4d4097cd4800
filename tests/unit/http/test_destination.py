"""Where a message is to go."""

from __future__ import annotations

import pytest

from taskq.errors import InvalidRequest
from taskq.http.destination import Destination, check_name, check_url, destination, shown


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://localhost:8080/a?b=c&d",
        "HTTPS://Example.COM/Path",
        "https://192.0.2.1/",
        "https://[2001:db8::1]:443/x",
        "https://user:pass@example.com./a//b/../c?x=%20&y=a%2Fb",
        "https://my_service.internal/{id}?q=<a>|b",
        f"https://example.com/{'a' * 8000}",
        f"https://{'a' * 63}.example/",
    ],
)
def test_url(url: str) -> None:
    """A URL is kept byte for byte."""
    assert destination(url) == Destination("url", url)
    assert check_url("Upstash-Callback", url) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [("https:/example.com/a?b", "https://example.com/a?b"), ("http:/a.b:80", "http://a.b:80")],
)
def test_merged_slashes(text: str, url: str) -> None:
    """A URL whose slashes a proxy merged is read as it was."""
    assert destination(text) == Destination("url", url)


@pytest.mark.parametrize("text", ["task://shop.tasks:send", "task:/shop.tasks:send", "TASK://shop.tasks:send"])
def test_task(text: str) -> None:
    """A task's name follows task://; its text is the URL of the message."""
    found = destination(text)
    assert (found.kind, found.value, found.text) == ("task", "shop.tasks:send", "task://shop.tasks:send")


def test_escaped_task() -> None:
    """Characters of a task's name that a client has escaped are read as they were."""
    assert destination("task://a.%3Clocals%3E.f").value == "a.<locals>.f"


@pytest.mark.parametrize("text", ["api/llm", "api/llm/"])
def test_llm(text: str) -> None:
    """A hosted model is a destination of its own, and no group."""
    assert destination(text) == Destination("llm", "api/llm")


@pytest.mark.parametrize("name", ["group", "my-group_1.x", "https", "task", "x" * 200, "0"])
def test_group(name: str) -> None:
    """Anything else is the name of a URL group."""
    assert destination(name) == Destination("group", name)


def test_known_text() -> None:
    """What is neither gets the text that clients of the protocol know."""
    known = "invalid destination url: endpoint has invalid scheme, add http:// or https://"
    with pytest.raises(InvalidRequest, match=known):
        destination("example.com/hook")
    with pytest.raises(InvalidRequest, match=known):
        check_url("Upstash-Callback", "example.com")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 201, "a\n"])
def test_no_name(name: str) -> None:
    """A name that cannot be is refused, naming what it was for."""
    with pytest.raises(InvalidRequest, match="^queue "):
        check_name("queue", name)


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 200])
def test_name(name: str) -> None:
    """A name that can be is given back."""
    assert check_name("queue", name) == name


@pytest.mark.parametrize("value", ["a" * 5000, "\x00" * 100, "é" * 100])
def test_shown_is_short(value: str) -> None:
    """However long or strange a value is, an error shows at most 80 printable characters of it."""
    assert len(shown(value)) <= 80 and shown(value).isprintable() and shown(value).isascii()
