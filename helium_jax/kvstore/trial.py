"""A trial: what the store would have left after steps that are only being considered."""

from helium_jax.kvstore.page_table import PageTable
from helium_jax.kvstore.prefix_index import Block


class Trial:
    """Counts pages through releases and admissions without carrying them out.

    Attributes:
        num_available: pages left to hand out without touching a pin.
        num_surrenderable: pages left beyond that, for which pins would be given up.
    """

    __slots__ = ("_changes", "_references", "num_available", "num_surrenderable")

    def __init__(self, references: list[int], num_available: int, num_surrenderable: int) -> None:
        self._references = references
        self._changes: dict[int, int] = {}
        self.num_available = num_available
        self.num_surrenderable = num_surrenderable

    @property
    def num_possible(self) -> int:
        """All pages left to hand out."""
        return self.num_available + self.num_surrenderable

    def count_idle(self, blocks: list[Block], *, is_pinned: bool) -> int:
        """Of the pinned or the unpinned among `blocks`, those that nobody reads: their pages can
        be handed out no more when they are attached."""
        changes, references = self._changes, self._references
        return sum(
            1
            for block in blocks
            if (block.num_pins > 0) is is_pinned
            and references[block.page] + changes.get(block.page, 0) == 0
        )

    def attach(self, blocks: list[Block]) -> None:
        """As `Store.attach` of these blocks."""
        self.num_available -= self.count_idle(blocks, is_pinned=False)
        self.num_surrenderable -= self.count_idle(blocks, is_pinned=True)
        for block in blocks:
            self._changes[block.page] = self._changes.get(block.page, 0) + 1

    def take(self, num_pages: int) -> None:
        """As `Store.append`. (Giving a pin up may leave more available than is counted here.)"""
        self.num_available -= num_pages
        if self.num_available < 0:
            self.num_surrenderable += self.num_available
            self.num_available = 0

    def release(self, table: PageTable) -> None:
        """As `Store.release`."""
        changes, references = self._changes, self._references
        for block in table.blocks:
            changes[block.page] = changes.get(block.page, 0) - 1
            if references[block.page] + changes[block.page] == 0:
                if block.num_pins:
                    self.num_surrenderable += 1
                else:
                    self.num_available += 1
        self.num_available += len(table.pages) - len(table.blocks) + len(table.copies)
