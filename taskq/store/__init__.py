"""The store: what is known about messages. `base` is the contract, `open_store` picks the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskq.store.url import parse

if TYPE_CHECKING:
    from taskq.clock import Clock
    from taskq.store.base import Store

__all__ = ["check_store", "open_store"]

check_store = parse


def open_store(url: str, *, clock: Clock | None = None) -> Store:
    """The store at the URL, not yet connected: `await store.open()` does that.

    Args:
        url: `sqlite:///path` (relative), `sqlite:////path` (absolute), `sqlite://` (in memory, gone with
            this object), or `postgresql://user:password@host:port/database`.
        clock: the store's clock. None: PostgreSQL's own, or for SQLite, whose processes share a
            machine, the machine's.

    Raises:
        InvalidSetting: a URL that names no store, or one whose driver is not installed.
    """
    place = parse(url)
    from taskq.store.adapter import SqlStore  # here: SQLAlchemy is loaded by those who use a store

    return SqlStore(place, clock=clock)
