"""Counts the times that an outcome is written, by a trigger in the store's database itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

from taskq.outcome import Status

TRIGGER = """
CREATE TABLE outcomes (id text);
CREATE FUNCTION note_outcome() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO outcomes VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER note_outcome AFTER INSERT OR UPDATE ON taskq_messages
  FOR EACH ROW WHEN (NEW.status IN ({final})) EXECUTE FUNCTION note_outcome();
"""


class Outcomes:
    """See the module. The store's schema must be there."""

    def __init__(self, url: str) -> None:
        self._url = url

    def watch(self) -> None:
        """Count from now on."""
        final = ", ".join(f"'{status}'" for status in Status if status.final)
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(TRIGGER.format(final=final))

    def recorded(self) -> dict[str, int]:
        """Message id -> how often an outcome was written."""
        with psycopg.connect(self._url) as connection:
            return dict(connection.execute("SELECT id, count(*) FROM outcomes GROUP BY id").fetchall())


SQLITE_TRIGGER = """
CREATE TABLE outcomes (id text);
CREATE TRIGGER note_inserted AFTER INSERT ON taskq_messages WHEN NEW.status IN ({final})
  BEGIN INSERT INTO outcomes VALUES (NEW.id); END;
CREATE TRIGGER note_updated AFTER UPDATE ON taskq_messages WHEN NEW.status IN ({final})
  BEGIN INSERT INTO outcomes VALUES (NEW.id); END;
"""


class SqliteOutcomes(Outcomes):
    """The same in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def watch(self) -> None:
        final = ", ".join(f"'{status}'" for status in Status if status.final)
        with closing(sqlite3.connect(self._path)) as connection:
            connection.executescript(SQLITE_TRIGGER.format(final=final))

    def recorded(self) -> dict[str, int]:
        with closing(sqlite3.connect(self._path)) as connection:
            return dict(connection.execute("SELECT id, count(*) FROM outcomes GROUP BY id").fetchall())
