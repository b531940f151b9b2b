"""What the files of a state folder have in common: how they are opened, bounded and recognised."""

import sqlite3
from pathlib import Path

# What a file that is damaged, full or gone raises; the last where SQLite quotes damaged text.
FILE_ERRORS = (sqlite3.Error, OSError, UnicodeDecodeError)


def connect(path: Path, *, max_bytes: int, busy_seconds: float) -> sqlite3.Connection:
    """Opens or makes a file in WAL mode that never grows beyond `max_bytes`.

    A crash of the machine may lose the last writes; it does not damage the file.

    Raises:
        sqlite3.Error: it is no database, or cannot be opened.
    """
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA max_page_count = {max(max_bytes // page_size, 1)}")
    return connection


def claim(connection: sqlite3.Connection, *, application_id: int, format_: int, what: str) -> None:
    """Marks an empty file as ours, or checks that it is.

    Raises:
        sqlite3.DatabaseError: it belongs to another program or format.
    """
    found = tuple(
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if num_tables and found != (application_id, format_):
        raise sqlite3.DatabaseError(f"is no {what} of format {format_}")
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute(f"PRAGMA user_version = {format_}")
