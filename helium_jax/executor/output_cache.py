"""Finished outputs by the key of their call: a bounded LRU that may outlive the process."""

import logging
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from helium_jax.errors import RequestError
from helium_jax.executor.output_cache_file import OutputFile, StoredOutput
from helium_jax.types import FinishReason

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 256 * 2**20
ENTRY_BYTES = 256  # of an entry besides its key and payload, in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedOutput:
    """The answer of one call.

    Attributes:
        text: what the model said, up to its stop string.
        token_ids: what it generated, a closing end-of-sequence id included.
        prompt_tokens: length of the prompt.
        completion_tokens: tokens generated.
        finish_reason: why it ended.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason = FinishReason.STOP


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCacheStatistics:
    """A cache at one moment; counters grow from its start.

    Attributes:
        num_entries: outputs it holds.
        bytes: of keys, payloads and bookkeeping; at most `max_bytes`.
        max_bytes: its bound.
        hits: calls of `get` that found an output.
        misses: calls of `get` that did not.
        evictions: outputs that left for lack of room, the least recently used first.
        expirations: outputs that left because they were too old.
        num_loaded: outputs that were in the file at the start.
        num_damaged: entries of the file that were not what had been written, and were dropped.
        num_unwritten: outputs that are in memory alone because the disk was too slow.
        file: "none" without a file, "open" while it is written, "failed" when only memory is left.
        file_error: why it failed.
    """

    num_entries: int
    bytes: int
    max_bytes: int
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    num_loaded: int = 0
    num_damaged: int = 0
    num_unwritten: int = 0
    file: Literal["none", "open", "failed"] = "none"
    file_error: str = ""


@dataclass(slots=True)
class _Entry:
    """A payload as it is written to the file, which also keeps it small in memory."""

    payload: bytes
    stored_at: float


class OutputCache:
    """Owns its entries; belongs to one thread, the event loop's. The file has a thread of its own.

    Entries never outlive `ttl_s`; when their bytes exceed `max_bytes`, the least recently used
    leave. With a file, every change is written behind, in order; a file that cannot be read or
    written is given up with a warning and in the statistics, and the cache goes on in memory.
    """

    def __init__(
        self,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        ttl_s: float | None = None,
        path: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the file, if there is one; call it before the event loop has work.

        Args:
            max_bytes: bound of keys, payloads and bookkeeping together.
            ttl_s: seconds after which an output is forgotten; None for never.
            path: of an SQLite file that other processes may use at the same time; None for memory.
            clock: seconds since the epoch, because ages outlive the process.

        Raises:
            RequestError: a bound is not positive.
        """
        if max_bytes <= 0:
            raise RequestError(f"{max_bytes=} must be positive; to cache nothing, have no cache")
        if ttl_s is not None and not ttl_s > 0:
            raise RequestError(f"{ttl_s=} must be positive; None keeps outputs for any time")
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        self._expirations = 0
        self._num_loaded = 0
        self._file: OutputFile | None = None
        if path is not None:
            self._file = OutputFile(path, max_bytes=max_bytes)
            self._load(self._file)

    def get(self, key: bytes) -> CachedOutput | None:
        """The output under `key`, which becomes the most recently used."""
        entry = self._fresh(key)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        if self._file is not None:
            self._file.touch(key)
        return _unpack(entry.payload)

    def peek(self, key: bytes) -> CachedOutput | None:
        """The same without any effect on order or statistics: for plans and EXPLAIN."""
        entry = self._entries.get(key)
        if entry is None or self._is_expired(entry):
            return None
        return _unpack(entry.payload)

    def put(self, key: bytes, output: CachedOutput) -> None:
        """Keeps an output as the most recently used; one larger than the cache is not kept."""
        self._drop(key)
        entry = _Entry(payload=_pack(output), stored_at=self._clock())
        if _size(key, entry) > self._max_bytes:
            return
        self._entries[key] = entry
        self._bytes += _size(key, entry)
        if self._file is not None:
            self._file.write(
                StoredOutput(key=key, payload=entry.payload, stored_at=entry.stored_at)
            )
        self._shrink()

    def clear(self) -> int:
        """Forgets every output, in the file too; returns how many there were."""
        num_entries = len(self._entries)
        for key in [*self._entries]:
            self._drop(key)
        return num_entries

    def statistics(self) -> OutputCacheStatistics:
        """The cache as it is now."""
        file, error = "none", ""
        if self._file is not None:
            error = self._file.failure or ""
            file = "failed" if error else "open"
        return OutputCacheStatistics(
            num_entries=len(self._entries),
            bytes=self._bytes,
            max_bytes=self._max_bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            expirations=self._expirations,
            num_loaded=self._num_loaded,
            num_damaged=self._file.num_damaged if self._file is not None else 0,
            num_unwritten=self._file.num_unwritten if self._file is not None else 0,
            file=file,
            file_error=error,
        )

    def flush(self) -> None:
        """Waits until the file has everything; blocks, so not for the event loop."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Writes what is left and closes the file; the cache goes on in memory."""
        if self._file is not None:
            self._file.close()

    def _load(self, file: OutputFile) -> None:
        for stored in file.stored:  # the most recently used first
            entry = _Entry(payload=stored.payload, stored_at=stored.stored_at)
            size = _size(stored.key, entry)
            if self._is_expired(entry) or self._bytes + size > self._max_bytes:
                file.delete(stored.key)
                continue
            self._entries[stored.key] = entry
            self._entries.move_to_end(stored.key, last=False)
            self._bytes += size
        file.stored.clear()
        self._num_loaded = len(self._entries)

    def _fresh(self, key: bytes) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and self._is_expired(entry):
            self._drop(key)
            self._expirations += 1
            return None
        return entry

    def _is_expired(self, entry: _Entry) -> bool:
        return self._ttl_s is not None and self._clock() - entry.stored_at >= self._ttl_s

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
            self._evictions += 1

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry)
            if self._file is not None:
                self._file.delete(key)


def _size(key: bytes, entry: _Entry) -> int:
    return len(key) + len(entry.payload) + ENTRY_BYTES


def _pack(output: CachedOutput) -> bytes:
    # Texts may hold lone surrogates, which have no UTF-8.
    text = output.text.encode("utf-8", "surrogatepass")
    ids = array("q", output.token_ids).tobytes()
    counts = (output.prompt_tokens, output.completion_tokens)
    return msgspec.msgpack.encode((text, ids, *counts, output.finish_reason))


def _unpack(payload: bytes) -> CachedOutput:
    text, packed, prompt_tokens, completion_tokens, finish_reason = msgspec.msgpack.decode(
        payload, type=tuple[bytes, bytes, int, int, FinishReason]
    )
    ids = array("q")
    ids.frombytes(packed)
    return CachedOutput(
        text=text.decode("utf-8", "surrogatepass"),
        token_ids=tuple(ids),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        finish_reason=finish_reason,
    )
