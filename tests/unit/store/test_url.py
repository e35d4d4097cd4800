"""Store URLs: what they name, and what they keep to themselves."""

from __future__ import annotations

import importlib.util

import pytest

from taskq.errors import InvalidSetting
from taskq.store import open_store
from taskq.store.url import parse


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///t.db", "t.db"),
        ("sqlite:////var/t.db", "/var/t.db"),
        ("sqlite:///with%20space.db", "with space.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_sqlite(url: str, path: str | None) -> None:
    """Three slashes begin a relative path, four an absolute one, and no path is memory."""
    assert (parse(url).kind, parse(url).path) == ("sqlite", path)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgres(scheme: str) -> None:
    """A PostgreSQL URL goes to SQLAlchemy whole and is shown without its password."""
    place = parse(f"{scheme}://me:s%40crd@host:5433/db?sslmode=require&password=s%40crd")
    assert place.sqlalchemy.startswith("postgresql+psycopg://me:s%40crd@host:5433/db?sslmode=require")
    assert place.shown == f"{scheme}://me@host:5433/db?sslmode=require"
    assert "crd" not in repr(place)
    assert place.scrubbed("connecting with s@crd failed") == "connecting with *** failed"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "sqlite:///"),
        ("t.db", "scheme"),
        ("/var/t.db", "scheme"),
        ("mysql://u:hunter2@host/db", "mysql"),
        ("redis://:hunter2@host/0", "redis"),
        ("sqlite://host/t.db", "three slashes"),
        ("sqlite:///t.db?mode=ro", r"\?"),
        ("postgresql://host", "names no database"),
        ("postgresql://host/", "names no database"),
        ("postgresql://u:hunter2@host:port/db", "cannot be read"),
        ("postgresql://u:hunter2@host:99999/db", "cannot be read"),
    ],
)
def test_bad_urls(url: str, told: str) -> None:
    """A URL that names no store is refused with what is wrong, and without its password."""
    with pytest.raises(InvalidSetting, match=told) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_not_text() -> None:
    """A store URL that is no text is told by its type."""
    with pytest.raises(InvalidSetting, match="NoneType"):
        open_store(None)


def test_driver_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg a PostgreSQL URL names the extra to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match=r"taskq\[postgres\]"):
        open_store("postgresql://u:hunter2@host/db")


def test_constructs_only(tmp_path) -> None:
    """Naming a store touches no file."""
    open_store(f"sqlite:///{tmp_path}/t.db")
    assert list(tmp_path.iterdir()) == []
