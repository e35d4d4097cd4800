"""Where a message is to go, as callers write it: a URL, a Python task, a URL group. Names that callers choose."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from taskq.errors import InvalidRequest
from taskq.http.request import TASK_SCHEME

MAX_URL_CHARS = 8192
MAX_NAME_CHARS = 200
MAX_SHOWN_CHARS = 80

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_TASK = re.compile(r"[A-Za-z0-9_.:<>-]{1,200}")  # as `task.check_task_name` allows them
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_SCHEME = re.compile(r"(https?|task):/+", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]+")  # ASCII without blanks and control characters

WRONG_SCHEME = "invalid destination url: endpoint has invalid scheme, add http:// or https://"

Kind = Literal["url", "task", "group", "llm"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a message is to go.

    kind   "url", "task", "group", or "llm": a hosted language model, which is asked for as `api/llm`
    value  the URL as it is called; the name of the task or group; "api/llm"
    """

    kind: Kind
    value: str

    @property
    def text(self) -> str:
        """As it is written: the URL of the message, for a URL or a task."""
        return f"{TASK_SCHEME}{self.value}" if self.kind == "task" else self.value


@lru_cache(1024)
def destination(text: str) -> Destination:
    """What a destination means: `https://…`, `http://…`, `task://NAME`, `api/llm`, or the name of a URL group.

    A proxy that merges slashes makes `https:/host` of a URL, which is read as it was.

    Raises:
        InvalidRequest: none of these.
    """
    scheme = _SCHEME.match(text)
    if scheme is not None:
        rest = text[scheme.end() :]
        if scheme[1].lower() == "task":
            return Destination("task", _task(text, unquote(rest)))
        slashes = text[scheme.end(1) + 1 : scheme.end()]
        return Destination("url", check_url("destination", f"{scheme[1]}://{rest}" if slashes == "/" else text))
    if text.rstrip("/") == "api/llm":
        return Destination("llm", "api/llm")
    if not _NAME.fullmatch(text):
        raise InvalidRequest(
            f"{WRONG_SCHEME}; a URL group's name has letters, digits, '.', '-' and '_' (got {shown(text)})"
        )
    return Destination("group", check_name("destination", text))


def _task(text: str, name: str) -> str:
    if not _TASK.fullmatch(name):
        raise refused("destination", text, "a task's name has 1 to 200 letters, digits, '_', '.', ':', '-', '<' or '>'")
    return name


def check_url(what: str, url: str) -> str:
    """The URL, if a request can be made to it: http or https, with a host, in printable ASCII, without a fragment.

    Args:
        what: the header or field, for the error.

    Raises:
        InvalidRequest: it cannot.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidRequest(f"{what}: {WRONG_SCHEME} (got {shown(url)})")
    if len(url) > MAX_URL_CHARS:
        raise refused(what, url, f"a URL has at most {MAX_URL_CHARS} characters, this one has {len(url)}")
    if not _PRINTABLE.fullmatch(url):
        raise refused(what, url, "a URL is ASCII without blanks and control characters: percent-encode the others")
    if "#" in url:
        raise refused(what, url, "a fragment (#…) is never sent: leave it out")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refused(what, url, f"this is no URL ({error})") from None
    if not _is_host(parts):
        raise refused(what, url, "a host such as example.com, 192.0.2.1 or [2001:db8::1] follows the scheme")
    if port == 0 or parts.netloc.endswith(":"):
        raise refused(what, url, "a port is 1 to 65535")
    return url


def _is_host(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def check_name(what: str, name: str) -> str:
    """The name, if it can be one: 1 to 200 letters, digits, `.`, `-`, `_`.

    Args:
        what: what it is to name, or the header: "queue", "Upstash-Schedule-Id".

    Raises:
        InvalidRequest: it cannot.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise refused(what, name, f"a name has 1 to {MAX_NAME_CHARS} letters, digits, '.', '-' or '_'")
    return name


def refused(what: str, value: str, mend: str) -> InvalidRequest:
    """The error for a header or field: its name, its value (cut), and what to write instead."""
    return InvalidRequest(f"{what} {shown(value)}: {mend}")


def shown(value: str) -> str:
    """The value in quotes, cut to 80 characters."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."
