"""A trace of a store's use: who needed which blocks, and when, whatever eviction made of it.

Opt-in and bounded; `belady` replays it under the best possible eviction. Blocks are numbered in
order of appearance, so that a trace neither shows nor keeps anybody's tokens.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from helium_jax.kvstore.page_table import PageTable


class Needs(NamedTuple):
    """A sequence begins to hold pages, and would share all of these blocks if they were there."""

    table: int
    blocks: tuple[int, ...]


class Holds(NamedTuple):
    """A sequence holds this many pages from now on, shared ones included."""

    table: int
    num_pages: int


class Shares(NamedTuple):
    """The next blocks of a sequence are there, found or computed: others may read them now."""

    table: int
    blocks: tuple[int, ...]


class Ends(NamedTuple):
    """A sequence gives back all its pages."""

    table: int


Event = Needs | Holds | Shares | Ends


@dataclass(slots=True, eq=False)
class _Written:
    """What a trace says of an open table: its number, its pages and blocks so far."""

    number: int
    num_pages: int = 0
    num_blocks: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Recorder:
    """Writes a trace of a store; the store tells it what it did.

    Attributes:
        max_events: recording ends when there are this many.
        events: what happened, oldest first.
    """

    max_events: int
    events: list[Event] = field(default_factory=list)
    _block_ids: dict[bytes, int] = field(default_factory=dict)
    _open: dict[PageTable, _Written] = field(default_factory=dict)
    _num_tables: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.events) >= self.max_events

    def changed(self, table: PageTable) -> None:
        """A table may have more pages or blocks than before."""
        if self.is_full:
            return
        written = self._open.get(table)
        if written is None:
            written = self._open[table] = _Written(self._num_tables)
            self._num_tables += 1
            self._write(Needs(written.number, self._block_range(table, 0, len(table.keys))))
        if len(table.pages) > written.num_pages:
            written.num_pages = len(table.pages)
            self._write(Holds(written.number, written.num_pages))
        if len(table.blocks) > written.num_blocks:
            new = self._block_range(table, written.num_blocks, len(table.blocks))
            written.num_blocks = len(table.blocks)
            self._write(Shares(written.number, new))

    def released(self, table: PageTable) -> None:
        """A table has given everything back."""
        written = self._open.pop(table, None)
        if written is not None:
            self._write(Ends(written.number))

    def _write(self, event: Event) -> None:
        if not self.is_full:
            self.events.append(event)

    def _block_range(self, table: PageTable, start: int, stop: int) -> tuple[int, ...]:
        ids = self._block_ids
        return tuple(ids.setdefault(key.digest, len(ids)) for key in table.keys[start:stop])
