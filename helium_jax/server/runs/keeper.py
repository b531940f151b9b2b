"""Keeps background runs in the journal, and tells of a run only what the journal has."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from helium_jax.executor.events import OpAnswer, OpCompleted, OpRow, RowCompleted
from helium_jax.executor.journal import Journal
from helium_jax.server.runs.events import Told, describe_progress, describe_row
from helium_jax.server.runs.kept import END, FIGURES, SPENT, pack_end, pack_run
from helium_jax.server.runs.record import HeldEvent, RunRecord, State


class RunKeeper:
    """Between the runs of one server and its journal; without one nothing is waited for.

    A run that is not durable is told of at once. Of a durable one a finished row is told when the
    journal has it, and whatever came after it waits for that, so that no order changes.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    @property
    def failure(self) -> str | None:
        """Why runs are not kept beyond the process although they should be."""
        return None if self._journal is None else self._journal.failure

    @property
    def has_journal(self) -> bool:
        """Whether runs are meant to be kept."""
        return self._journal is not None

    def begin(self, record: RunRecord, promise_key: str | None, digest: bytes) -> None:
        """Notes a run's request; its `kept` is set once that is done, or will not be."""
        journal = self._journal
        if journal is None:
            record.kept.set()
            return
        record.is_durable = True
        request = pack_run(record, promise_key, digest)
        journal.begin(record.id, request, on_done=_later(self._note_kept, record, journal))

    def tell(self, record: RunRecord, progress: Told, t_ms: float) -> None:
        """Publishes an event, in its turn."""

        def publish() -> None:
            if isinstance(progress, RowCompleted):
                record.put_row(describe_row(progress.result))
            if record.on_told is not None:
                record.on_told(progress)
            if not isinstance(progress, OpAnswer):  # for who made the run, not for clients
                record.events.append(progress.type, t_ms, describe_progress(progress))

        row = progress.result.row if isinstance(progress, RowCompleted) else None
        held = HeldEvent(publish=publish, is_ready=True, row=row)
        journal = self._journal
        if isinstance(progress, RowCompleted) and record.is_durable and journal is not None:
            held.is_ready = False
            data = msgspec.json.encode(describe_row(progress.result))
            done = _later(self._release, record, held)
            journal.add_row(record.id, progress.result.row, data, on_done=done)
        if isinstance(progress, RowCompleted | OpRow | OpCompleted):
            self._note_spent(record)
        record.held.append(held)
        _publish(record)

    def note_state(self, record: RunRecord, state: State) -> None:
        """Notes what has become of a run."""
        if record.is_durable and self._journal is not None:
            self._journal.set_state(record.id, state, record.attempt)
            self._note_end(record)

    def keep_figures(self, record: RunRecord, figures: bytes) -> None:
        """Keeps what a run can be drawn and explained from when its process is gone."""
        if record.is_durable and self._journal is not None:
            self._journal.set_note(record.id, FIGURES, figures)

    async def settle(self, record: RunRecord, state: State) -> None:
        """Notes a run's end; returns once the journal has it, and with it all of its rows."""
        if not record.is_durable or self._journal is None:
            return
        done = asyncio.Event()
        self._note_end(record)
        self._journal.set_state(record.id, state, record.attempt, on_done=_later(done.set))
        await done.wait()

    def flush(self, record: RunRecord) -> None:
        """Tells what still waits: of an interrupted run it is written when the journal closes."""
        for held in record.held:
            held.is_ready = True
        _publish(record)

    def forget(self, record: RunRecord) -> None:
        """Removes a run from the journal."""
        if record.is_durable and self._journal is not None:
            self._journal.forget(record.id)

    def _note_kept(self, record: RunRecord, journal: Journal) -> None:
        record.is_durable = journal.failure is None
        record.kept.set()

    def _note_end(self, record: RunRecord) -> None:
        if record.is_durable and self._journal is not None:
            self._note_spent(record)
            self._journal.set_note(record.id, END, pack_end(record))

    def _note_spent(self, record: RunRecord) -> None:
        if record.is_durable and self._journal is not None and record.usage is not None:
            self._journal.set_note(record.id, SPENT, msgspec.json.encode(record.usage))

    def _release(self, record: RunRecord, held: HeldEvent) -> None:
        held.is_ready = True
        _publish(record)


def _publish(record: RunRecord) -> None:
    while record.held and record.held[0].is_ready:
        record.held.popleft().publish()


def _later(call: Callable[..., None], *args: object) -> Callable[[], None]:
    """A call for the journal's thread that makes one here."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        # After the loop's end nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, *args)

    return tell
