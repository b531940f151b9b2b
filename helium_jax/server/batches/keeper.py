"""Keeps batches in the journal, so that one goes on where its server was stopped."""

import asyncio
import contextlib
import logging

import msgspec

from helium_jax.executor.journal import Journal
from helium_jax.server.batches.record import (
    BATCH_PREFIX,
    REPLY,
    BatchRecord,
    pack_batch,
    restore_batch,
)

log = logging.getLogger(__name__)


class BatchKeeper:
    """Between the batches of one server and its journal; without one nothing is kept."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    @property
    def keeps(self) -> bool:
        """Whether a batch outlives the process."""
        return self._journal is not None and self._journal.failure is None

    def take_found(self) -> list[BatchRecord]:
        """The batches of earlier processes, the earliest first."""
        found = []
        for entry in () if self._journal is None else self._journal.take_found(BATCH_PREFIX):
            try:
                found.append(restore_batch(entry))
            except ValueError as error:
                log.error("%s: the journal's entry cannot be read: %s", entry.run_id, error)
        return found

    async def begin(self, batch: BatchRecord) -> None:
        """Notes a batch's request; returns once the journal has it, or will not have it."""
        if self._journal is None:
            return
        loop, kept = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            # After the loop's end nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(kept.set)

        self._journal.begin(batch.reply.id, pack_batch(batch), on_done=tell)
        await kept.wait()

    def note_reply(self, batch: BatchRecord) -> None:
        """Notes what clients see of a batch; of one that is over, that is all there is to keep."""
        if self._journal is None:
            return
        self._journal.set_note(batch.reply.id, REPLY, msgspec.json.encode(batch.reply))
        if batch.is_final:
            self._journal.drop_rows(batch.reply.id)

    def note_line(self, batch: BatchRecord, index: int, written: bytes) -> None:
        """Notes a line that is done."""
        if self._journal is not None:
            self._journal.add_row(batch.reply.id, index, written)

    def forget(self, batch: BatchRecord) -> None:
        """Removes a batch from the journal."""
        if self._journal is not None:
            self._journal.forget(batch.reply.id)
