"""Runs and batches that outlive their process: what was asked for and every finished row.

An SQLite file in WAL mode, written behind on a thread of the journal's own. A write is told once
it is committed: from then on `kill -9` does not lose it (a crash of the machine may). Nothing here
raises once the journal is open: a file that is damaged, full or not writable ends in `failure` and
an error in the log, and runs go on without being kept.
"""

import contextlib
import fcntl
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from helium_jax.errors import RequestError
from helium_jax.executor.sqlite_file import FILE_ERRORS, claim, connect

log = logging.getLogger(__name__)

APPLICATION_ID = 0x68656C6A  # "helj": tells our files from other programs'
FORMAT = 1
BUSY_SECONDS = 10.0
DEFAULT_MAX_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledRun:
    """A run as it was found in the file.

    Attributes:
        run_id: of the run.
        request: what was asked for, in the words of whoever asked.
        state: the last one written.
        attempt: counts from 1, one more with each resume.
        rows: finished rows by their place in the batch, in the same words.
        notes: what else was written of it, by name.
    """

    run_id: str
    request: bytes
    state: str
    attempt: int
    rows: dict[int, bytes] = field(default_factory=dict)
    notes: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Write:
    statement: str
    values: tuple[object, ...]
    on_done: Callable[[], None] | None


class Journal:
    """The file of one state directory; only one process may have it open.

    Methods but `close` return at once and may be called from one thread, the event loop's.

    Attributes:
        found: the runs that were in the file, the earliest first, until somebody takes them.
        failure: why nothing is kept any more, None while all is well.
    """

    def __init__(self, folder: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Opens or makes the file and reads what is in it; blocks.

        Args:
            folder: the state directory; is made if it is missing.
            max_bytes: of the file; beyond it nothing more is kept.

        Raises:
            RequestError: another process has the folder open, or it cannot be made.
        """
        self.found: list[JournaledRun] = []
        self.failure: str | None = None
        self._path = folder / "runs.sqlite"
        self._max_bytes = max_bytes
        self._lock = _lock(folder)
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        with self._giving_up():
            connection = connect(self._path, max_bytes=self._max_bytes, busy_seconds=BUSY_SECONDS)
            try:
                self._read(connection)
            finally:
                connection.close()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def take_found(self, prefix: str) -> list[JournaledRun]:
        """What was in the file under ids that begin so; each is given once."""
        taken = [run for run in self.found if run.run_id.startswith(prefix)]
        self.found = [run for run in self.found if not run.run_id.startswith(prefix)]
        return taken

    def begin(self, run_id: str, request: bytes, *, on_done: Callable[[], None]) -> None:
        """Notes a run before it begins.

        `on_done` is called on the journal's thread once the write is committed or has failed; so
        for the other methods.
        """
        statement = "INSERT OR IGNORE INTO runs (run_id, request, state, attempt) VALUES (?,?,?,1)"
        self._put(statement, (run_id, request, "queued"), on_done)

    def set_state(
        self, run_id: str, state: str, attempt: int, *, on_done: Callable[[], None] | None = None
    ) -> None:
        """Notes a run's state."""
        statement = "UPDATE runs SET state = ?, attempt = ? WHERE run_id = ?"
        self._put(statement, (state, attempt, run_id), on_done)

    def add_row(
        self, run_id: str, row: int, data: bytes, *, on_done: Callable[[], None] | None = None
    ) -> None:
        """Notes a finished row; a second time it stays as it is."""
        statement = "INSERT OR IGNORE INTO rows (run_id, row, data) VALUES (?,?,?)"
        self._put(statement, (run_id, row, data), on_done)

    def set_note(
        self, run_id: str, name: str, data: bytes, *, on_done: Callable[[], None] | None = None
    ) -> None:
        """Notes something else of a run, such as its cost; replaces what had the same name.

        A crash may take back the last words about it.
        """
        statement = "INSERT OR REPLACE INTO notes (run_id, name, data) VALUES (?,?,?)"
        self._put(statement, (run_id, name, data), on_done)

    def drop_rows(self, run_id: str) -> None:
        """Removes a run's rows, which are kept elsewhere now."""
        self._put("DELETE FROM rows WHERE run_id = ?", (run_id,), None)

    def forget(self, run_id: str) -> None:
        """Removes a run and all that was written of it."""
        for table in ("rows", "notes", "runs"):
            self._put(f"DELETE FROM {table} WHERE run_id = ?", (run_id,), None)

    def close(self) -> None:
        """Writes what is left and gives the folder free; blocks."""
        self._writes.put(None)
        self._thread.join()
        self._lock.close()

    def _put(
        self, statement: str, values: tuple[object, ...], on_done: Callable[[], None] | None
    ) -> None:
        self._writes.put(_Write(statement, values, on_done))

    # --- opening, on the caller's thread ------------------------------------------------------

    def _read(self, connection: sqlite3.Connection) -> None:
        claim(connection, application_id=APPLICATION_ID, format_=FORMAT, what="journal")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY, run_id TEXT UNIQUE "
            "NOT NULL, request BLOB NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS rows (run_id TEXT NOT NULL, row INTEGER NOT NULL, "
            "data BLOB NOT NULL, PRIMARY KEY (run_id, row))"
        )
        # Beside the others since they had their format; older programs leave it alone.
        connection.execute(
            "CREATE TABLE IF NOT EXISTS notes (run_id TEXT NOT NULL, name TEXT NOT NULL, "
            "data BLOB NOT NULL, PRIMARY KEY (run_id, name))"
        )
        ((answer,), *_) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if answer != "ok":
            raise sqlite3.DatabaseError(f"is damaged: {answer}")
        runs: dict[str, JournaledRun] = {}
        entries = connection.execute(
            "SELECT run_id, request, state, attempt FROM runs ORDER BY number"
        )
        for run_id, request, state, attempt in _whole(entries, (str, bytes, str, int)):
            runs[run_id] = JournaledRun(
                run_id=run_id, request=request, state=state, attempt=attempt
            )
        rows = connection.execute("SELECT run_id, row, data FROM rows")
        for run_id, row, data in _whole(rows, (str, int, bytes)):
            if run_id in runs:
                runs[run_id].rows[row] = data
        notes = connection.execute("SELECT run_id, name, data FROM notes")
        for run_id, name, data in _whole(notes, (str, str, bytes)):
            if run_id in runs:
                runs[run_id].notes[name] = data
        self.found = [*runs.values()]

    # --- writing, on the journal's own thread -------------------------------------------------

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        if self.failure is None:
            with self._giving_up():
                connection = connect(
                    self._path, max_bytes=self._max_bytes, busy_seconds=BUSY_SECONDS
                )
        is_last = False
        while not is_last:
            batch = self._next_batch()
            is_last = batch[-1] is None
            writes = [write for write in batch if write is not None]
            if connection is not None and self.failure is None and writes:
                with self._giving_up():
                    connection.execute("BEGIN IMMEDIATE")
                    for write in writes:
                        connection.execute(write.statement, write.values)
                    connection.execute("COMMIT")
            # After a failure as well: nobody may wait for what will not be written.
            for write in writes:
                if write.on_done is not None:
                    write.on_done()
        if connection is not None:
            connection.close()

    def _next_batch(self) -> list[_Write | None]:
        """Waits for a write, then takes all that are there: one transaction for many."""
        batch = [self._writes.get()]
        with contextlib.suppress(queue.Empty):
            while batch[-1] is not None:
                batch.append(self._writes.get_nowait())
        return batch

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except FILE_ERRORS as error:
            self.failure = f"{self._path.name}: {error}"
            self.found = []
            log.error(
                "journal %s: %s; runs will not survive this process (move the file away to start "
                "a new one)",
                self._path,
                error,
            )


def _whole(rows: Iterable[tuple[Any, ...]], kinds: tuple[type, ...]) -> Iterator[tuple[Any, ...]]:
    """Rows of a table whose values are of the kinds that were written; SQLite takes any."""
    for row in rows:
        if all(type(value) is kind for value, kind in zip(row, kinds, strict=True)):
            yield row
        else:
            log.error("the journal has an entry of %s that nobody wrote; it is left out", row[0])


def check_folder(folder: Path) -> None:
    """Says before there is anything to keep whether a journal could be had.

    Raises:
        RequestError: another process has the folder open, or it cannot be made or written.
    """
    _lock(folder).close()


def _lock(folder: Path) -> IO[bytes]:
    """The folder for this process alone, until the file is closed or the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "server.lock").open("ab")
    except OSError as error:
        raise RequestError(
            f"cannot use {str(folder)!r} as a state directory: {error.strerror}; choose another"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RequestError(
            f"another server uses the state directory {str(folder)!r}; stop it, or choose another",
            code="state_dir_in_use",
        ) from None
    return file
