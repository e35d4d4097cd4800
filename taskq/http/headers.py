"""Headers as callers give them: settings under a prefix, and what is to be forwarded.

What is forwarded: `Content-Type`; every `Upstash-Forward-<Name>`; with `Upstash-Header-Forward: true` the headers
without a prefix too, but for credentials of this API (Authorization, Cookie, Proxy-Authorization), which go only where
`Upstash-Forward-` sends them. Headers that belong to a connection and not to a message (Host, Content-Length,
Transfer-Encoding, Connection and its kin) are left out, however they are given.

`Upstash-` headers that nobody asks for here, those of telemetry and workflows among them, are ignored: newer clients
may send them. They are never forwarded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from taskq.errors import InvalidRequest
from taskq.http.destination import refused, shown
from taskq.http.request import Headers, canonical

PREFIX = "Upstash-"
MAX_HEADERS = 200
MAX_HEADER_BYTES = 64 * 1024
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_OF_THE_CONNECTION = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
    "upgrade", "expect",
})  # fmt: skip
_OF_THE_CALLER = _OF_THE_CONNECTION | {"authorization", "cookie", "proxy-authorization"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Said:
    """The settings under a prefix, any case; knows how they are called in full."""

    def __init__(self, prefix: str, pairs: Iterable[tuple[str, str]]) -> None:
        self.prefix = prefix
        self.pairs: Headers = tuple(pairs)
        self._values: dict[str, list[str]] = {}
        for name, value in self.pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def all(self, name: str) -> list[str]:
        """Every value of a setting, in order."""
        values = self._values.get(name.lower())
        if values is None:
            return []
        for value in values:
            if _CONTROL.search(value) or _SURROGATE.search(value):
                raise self.error(name, value, "control characters are not allowed")
        return [value.strip(" \t") for value in values]

    def one(self, name: str) -> str | None:
        """The value of a setting; None: it was not given."""
        values = self.all(name)
        if not values:
            return None
        if len(set(values)) > 1:
            raise self.error(name, values[1], f"it is given twice, first as {shown(values[0])}: leave one of them out")
        return values[0]

    def flag(self, name: str) -> bool:
        """A setting that is true or false, in any case."""
        value = self.one(name)
        if value is not None and value.lower() not in ("true", "false"):
            raise self.error(name, value, "write true or false")
        return value is not None and value.lower() == "true"

    def under(self, start: str) -> Headers:
        """The pairs whose name begins so, without that beginning."""
        return tuple(
            (name[len(start) :], value) for name, value in self.pairs if name.lower().startswith(start.lower())
        )

    def error(self, name: str, value: str, mend: str) -> InvalidRequest:
        return refused(f"{self.prefix}{name}", value, mend)


def given(
    headers: Sequence[tuple[str, str]], query: Sequence[tuple[str, str]], defaults: Headers
) -> list[tuple[str, str]]:
    """All that is said, each thing by whoever comes first, with names as headers have them.

    What the defaults hide stays hidden, whatever else is to be.
    """
    if not query and not defaults:
        return list(headers)
    known = {name.lower() for name, _ in headers}
    pairs = [*headers, *((canonical(key), value) for key, value in query if is_ours(key) and key.lower() not in known)]
    everything = any(
        name.lower() == "upstash-header-forward" and value.strip(" \t").lower() == "true" for name, value in pairs
    )
    plain = unprefixed([pair for pair in pairs if not is_ours(pair[0])], everything=everything)
    said = {_subject(name) for name, _ in [*plain, *(pair for pair in pairs if is_ours(pair[0]))]}
    for name, value in defaults:
        if _subject(name) not in said or name.lower() == "upstash-redact-fields":
            pairs.append((name if is_ours(name) or is_content_type(name) else f"{PREFIX}Forward-{name}", value))
    return pairs


def split_query(query: str) -> tuple[str, str]:
    """A request's raw query in two: the destination's own part, byte for byte, and what is said to this API
    (`upstash-…` keys, and `qstash_token`), still encoded."""
    theirs: list[str] = []
    ours: list[str] = []
    for part in query.split("&"):
        key = part.partition("=")[0].lower()
        (ours if key.startswith("upstash-") or key == "qstash_token" else theirs).append(part)
    return "&".join(theirs), "&".join(ours)


def unprefixed(plain: Sequence[tuple[str, str]], *, everything: bool) -> Headers:
    """The request's own headers that are to be forwarded."""
    if everything:
        return tuple((name, value) for name, value in plain if name.lower() not in _OF_THE_CALLER)
    return tuple((name, value) for name, value in plain if is_content_type(name))


def forwarded(said: Said, plain: Headers) -> Headers:
    """The headers to be sent, checked. Those with a prefix stand in for those of the same name without one."""
    own = [one for one in said.under("Forward-") if one[0].lower() not in _OF_THE_CONNECTION]
    for name, value in own:
        _check_header(f"{said.prefix}Forward-{name}", name, value)
    for name, value in plain:
        _check_header(name, name, value)
    replaced = {name.lower() for name, _ in own}
    kept = [(name, value) for name, value in plain if name.lower() not in replaced]
    headers = _of_one_type([(name, value.strip(" \t")) for name, value in [*kept, *own]])
    check_size(f"{said.prefix}Forward-*", headers)
    return headers


def _of_one_type(headers: Sequence[tuple[str, str]]) -> Headers:
    """The headers, Content-Type once."""
    types = [value for name, value in headers if is_content_type(name)]
    for value in types[1:]:
        if value != types[0]:
            raise refused(
                "Content-Type", value, f"it is given twice, first as {shown(types[0])}: leave one of them out"
            )
    rest = tuple(one for one in headers if not is_content_type(one[0]))
    return (("Content-Type", types[0]), *rest) if types else rest


def check_size(what: str, headers: Headers) -> None:
    """Raise InvalidRequest for more than 200 headers, or more than 64 KiB of them."""
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise InvalidRequest(
            f"{what}: there are at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes, not {len(headers)} of "
            f"{size}: send less, or in the body"
        )


def _check_header(what: str, name: str, value: str) -> None:
    if not TOKEN.fullmatch(name):
        raise refused(shown(what), value, "the name of a header has letters, digits and '-', and no blanks")
    if _CONTROL.search(value):
        raise refused(what, value, "control characters are not allowed in the value of a header")
    if not _fits_latin_1(value):
        raise refused(what, value, "the value of a header is latin-1 text: encode it, or send it in the body")


def _fits_latin_1(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def is_ours(name: str) -> bool:
    return name.lower().startswith("upstash-")


def is_content_type(name: str) -> bool:
    return name.lower() == "content-type"


def _subject(name: str) -> str:
    """What a header is about: the same for one to be forwarded, with the prefix or without."""
    return name.lower().removeprefix("upstash-forward-")


def text(value: str) -> str:
    """The text of a header: UTF-8 if its bytes are, else latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
