"""Store URLs: which kind of store, and where. No database library is loaded to read one."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from taskq.errors import InvalidSetting

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_SHAPES = "sqlite:///relative/path, sqlite:////absolute/path, sqlite:// (in memory) or postgresql://user@host/database"


@dataclass(frozen=True, slots=True)
class StoreURL:
    """A URL that names a store.

    kind      str, "sqlite" or "postgresql"
    path      str | None: the SQLite file; None keeps it in memory
    sqlalchemy  str: the URL as SQLAlchemy takes it, password included; not for people's eyes
    shown     str: the URL without its password
    password  str | None: to keep it out of texts
    """

    kind: str
    path: str | None
    sqlalchemy: str
    shown: str
    password: str | None = None

    def __repr__(self) -> str:
        return f"StoreURL({self.shown!r})"

    def scrubbed(self, text: str) -> str:
        """The text without the password, should a driver have quoted it."""
        return text.replace(self.password, "***") if self.password else text


def parse(url: str) -> StoreURL:
    """Read a store URL.

    Raises:
        InvalidSetting: it names no store that taskq has, or the driver for it is not installed.
    """
    if not isinstance(url, str):
        raise InvalidSetting(f"a store URL is text, got {type(url).__name__}: use {_SHAPES}")
    scheme, colon, _ = url.partition("://")
    if not colon:
        raise InvalidSetting(f"store URL {_without_password(url)!r} has no scheme: use {_SHAPES}")
    if scheme == "sqlite":
        return _sqlite(url)
    if scheme in _POSTGRES:
        return _postgres(url, scheme)
    raise InvalidSetting(f"store URL {_without_password(url)!r}: no store of kind {scheme!r}: use {_SHAPES}")


def _sqlite(url: str) -> StoreURL:
    rest = url.removeprefix("sqlite://")
    if rest in ("", "/", "/:memory:"):
        return StoreURL("sqlite", None, "sqlite+pysqlite://", "sqlite://")
    if not rest.startswith("/"):
        raise InvalidSetting(
            f"store URL {url!r} names a host: write three slashes before a relative path, four before an absolute one"
        )
    if "?" in rest or "#" in rest or "\0" in rest:
        raise InvalidSetting(f"store URL {url!r}: a SQLite URL is a path alone, without '?' or '#'")
    return StoreURL("sqlite", unquote(rest[1:]), "sqlite+pysqlite://", url)


def _postgres(url: str, scheme: str) -> StoreURL:
    try:
        parts = urlsplit(url)
        password, port = parts.password, parts.port
    except ValueError as error:
        raise InvalidSetting(f"store URL {_without_password(url)!r} cannot be read: {_SHAPES}") from error
    if port == 0 or not parts.path.strip("/") or "\0" in url:
        raise InvalidSetting(f"store URL {_without_password(url)!r} names no database: use {_SHAPES}")
    if importlib.util.find_spec("psycopg") is None:
        raise InvalidSetting(
            f"store URL {_without_password(url)!r} needs the PostgreSQL driver: pip install 'taskq[postgres]'"
        )
    host = parts.netloc.rpartition("@")[2]
    user = parts.username
    shown = urlunsplit((scheme, f"{user}@{host}" if user else host, parts.path, _safe_query(parts.query), ""))
    return StoreURL(
        "postgresql",
        None,
        "postgresql+psycopg" + url[len(scheme) :],
        shown,
        None if password is None else unquote(password),
    )


def _safe_query(query: str) -> str:
    return "&".join(part for part in query.split("&") if not part.lower().startswith(("password=", "sslpassword=")))


def _without_password(url: str) -> str:
    return re.sub(r"(//[^:/@?#]*):[^@]*@", r"\1:***@", url)
