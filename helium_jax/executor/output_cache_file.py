"""The output cache's file: SQLite in WAL mode, read once at the start, written behind."""

import contextlib
import hashlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from helium_jax.executor.sqlite_file import FILE_ERRORS, claim, connect

log = logging.getLogger(__name__)

APPLICATION_ID = 0x68656C69  # "heli": tells our files from other programs'
FORMAT = 1
BUSY_SECONDS = 10.0  # how long another process may hold the file before we give it up
MAX_PENDING_BYTES = 64 * 2**20  # waiting for a slow disk; what comes on top is not written
_DIGEST_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutput:
    """One entry of the file.

    Attributes:
        key: of the call.
        payload: its packed output.
        stored_at: seconds since the epoch.
    """

    key: bytes
    payload: bytes
    stored_at: float


@dataclass(frozen=True, slots=True)
class _Touch:
    key: bytes


@dataclass(frozen=True, slots=True)
class _Delete:
    key: bytes


@dataclass(frozen=True, slots=True)
class _Flush:
    done: threading.Event
    is_last: bool


_Change = StoredOutput | _Touch | _Delete | _Flush


class OutputFile:
    """Changes go into a queue and reach the file in order, on a thread of this object.

    Nothing here raises: a file that cannot be read or written ends in `failure`, a warning in the
    log, and methods without effect. SQLite has no checksums of its own, so every entry carries one
    and a damaged answer is dropped instead of served.

    Attributes:
        stored: what the file held when it was opened, the most recently used first.
        num_damaged: entries dropped because their checksum was wrong.
        num_unwritten: entries that were left out because the disk was too slow.
        failure: why the file is not used any more, or None.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Opens or makes the file and reads it.

        Args:
            path: of the file.
            max_bytes: of all payloads that the cache keeps. The file may grow to twice that and
                16 MiB, for indices, free pages and other processes' entries.
        """
        self.stored: list[StoredOutput] = []
        self.num_damaged = 0
        self.num_unwritten = 0
        self.failure: str | None = None
        self._path = path
        self._max_file_bytes = 2 * max_bytes + 16 * 2**20
        self._changes: queue.SimpleQueue[_Change] = queue.SimpleQueue()
        # Each is changed by one thread alone; their difference is what waits.
        self._queued_bytes = 0
        self._written_bytes = 0
        self._is_closed = False
        self._use = 0  # orders entries by their last use
        with self._giving_up():
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = connect(
                self._path, max_bytes=self._max_file_bytes, busy_seconds=BUSY_SECONDS
            )
            try:
                self._read(connection)
            finally:
                connection.close()
        self._thread: threading.Thread | None = None
        if self.failure is None:
            # A daemon, so that a program that forgets to close the cache can still end.
            self._thread = threading.Thread(target=self._run, name="output-cache", daemon=True)
            self._thread.start()

    def write(self, output: StoredOutput) -> None:
        """Adds or replaces an entry."""
        if self._queued_bytes - self._written_bytes > MAX_PENDING_BYTES:
            self.num_unwritten += 1
            if self.num_unwritten == 1:
                log.warning("output cache %s: the disk is too slow; skipping entries", self._path)
            return
        self._queued_bytes += len(output.payload)
        self._enqueue(output)

    def touch(self, key: bytes) -> None:
        """Makes an entry the most recently used."""
        self._enqueue(_Touch(key))

    def delete(self, key: bytes) -> None:
        """Removes an entry."""
        self._enqueue(_Delete(key))

    def flush(self) -> None:
        """Waits until all changes so far are in the file, or it has failed."""
        self._wait(is_last=False)

    def close(self) -> None:
        """Flushes and ends the thread; later changes are ignored."""
        self._wait(is_last=True)
        self._is_closed = True

    def _wait(self, *, is_last: bool) -> None:
        if self._thread is None or self._is_closed:
            return
        done = threading.Event()
        self._changes.put(_Flush(done, is_last))
        done.wait()
        if is_last:
            self._thread.join()

    def _enqueue(self, change: _Change) -> None:
        if self.failure is None and not self._is_closed:
            self._changes.put(change)

    # --- opening, on the caller's thread ------------------------------------------------------

    def _read(self, connection: sqlite3.Connection) -> None:
        claim(connection, application_id=APPLICATION_ID, format_=FORMAT, what="output cache")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS outputs (key BLOB PRIMARY KEY, payload BLOB NOT NULL, "
            "digest BLOB NOT NULL, stored_at REAL NOT NULL, used INTEGER NOT NULL)"
        )
        rows = connection.execute(
            "SELECT key, payload, digest, stored_at, used FROM outputs ORDER BY used DESC"
        )
        for key, payload, digest, stored_at, used in rows:
            self._use = max(self._use, used)
            if digest != _digest(key, payload):
                self.num_damaged += 1
                self.delete(key)
                continue
            self.stored.append(StoredOutput(key=key, payload=payload, stored_at=stored_at))
        if self.num_damaged:
            log.warning("output cache %s: dropped %d damaged entries", self._path, self.num_damaged)

    # --- writing, on the object's own thread --------------------------------------------------

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        with self._giving_up():
            connection = connect(
                self._path, max_bytes=self._max_file_bytes, busy_seconds=BUSY_SECONDS
            )
        while True:
            batch = self._next_batch()
            if connection is not None and self.failure is None:
                with self._giving_up():
                    connection.execute("BEGIN IMMEDIATE")
                    for change in batch:
                        self._apply(connection, change)
                    connection.execute("COMMIT")
            # After a failure as well: nobody may wait for what will not be written.
            if self._settle(batch):
                break
        if connection is not None:
            connection.close()

    def _next_batch(self) -> Sequence[_Change]:
        """Waits for a change, then takes all that are there: one transaction for many."""
        batch = [self._changes.get()]
        with contextlib.suppress(queue.Empty):
            while not isinstance(batch[-1], _Flush):
                batch.append(self._changes.get_nowait())
        return batch

    def _apply(self, connection: sqlite3.Connection, change: _Change) -> None:
        self._use += 1
        match change:
            case StoredOutput(key=key, payload=payload, stored_at=stored_at):
                row = (key, payload, _digest(key, payload), stored_at, self._use)
                connection.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?, ?)", row)
            case _Touch(key=key):
                connection.execute("UPDATE outputs SET used = ? WHERE key = ?", (self._use, key))
            case _Delete(key=key):
                connection.execute("DELETE FROM outputs WHERE key = ?", (key,))
            case _Flush():
                pass

    def _settle(self, batch: Sequence[_Change]) -> bool:
        """Notes that a batch is done with; whether it was the last one."""
        for change in batch:
            if isinstance(change, StoredOutput):
                self._written_bytes += len(change.payload)
        last = batch[-1]
        if isinstance(last, _Flush):
            last.done.set()
            return last.is_last
        return False

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except FILE_ERRORS as error:
            self.failure = f"{self._path}: {error}"
            self.stored.clear()
            log.warning(
                "output cache %s: %s; going on in memory alone (delete the file to start anew)",
                self._path,
                error,
            )


def _digest(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(payload, key=key[:64], digest_size=_DIGEST_SIZE).digest()
