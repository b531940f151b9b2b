"""A trial: what the store would have left after steps that are only being considered."""

from helium_jax.kvstore.page_table import PageTable
from helium_jax.kvstore.prefix_index import Block


class Trial:
    """Counts pages through releases and admissions without carrying them out.

    Attributes:
        num_available: pages left to hand out.
    """

    __slots__ = ("_changes", "_references", "num_available")

    def __init__(self, references: list[int], num_available: int) -> None:
        self._references = references
        self._changes: dict[int, int] = {}
        self.num_available = num_available

    def count_idle(self, blocks: list[Block]) -> int:
        """Of `blocks`, those whose pages stop being available when they are attached."""
        changes, references = self._changes, self._references
        return sum(
            1
            for block in blocks
            if block.num_pins == 0 and references[block.page] + changes.get(block.page, 0) == 0
        )

    def attach(self, blocks: list[Block]) -> None:
        """As `Store.attach` of these blocks."""
        self.num_available -= self.count_idle(blocks)
        for block in blocks:
            self._changes[block.page] = self._changes.get(block.page, 0) + 1

    def take(self, num_pages: int) -> None:
        """As `Store.append`."""
        self.num_available -= num_pages

    def release(self, table: PageTable) -> None:
        """As `Store.release`."""
        changes, references = self._changes, self._references
        for block in table.blocks:
            changes[block.page] = changes.get(block.page, 0) - 1
            if block.num_pins == 0 and references[block.page] + changes[block.page] == 0:
                self.num_available += 1
        self.num_available += len(table.pages) - len(table.blocks) + len(table.copies)
