"""Hints: what is known of a block's next use, kept true until it comes, is withdrawn or expires."""

from collections.abc import Iterable

from helium_jax.kvstore.eviction import EvictionPolicy
from helium_jax.kvstore.prefix_index import Block

# A hint that nobody renews expires when the pool was turned over this many times, or up to twice
# as many: whoever gave it has gone without a word.
HINT_TURNOVERS = 16


class Hints:
    """Sets `Block.next_use`; a block in the eviction order is placed anew.

    Args:
        policy: the store's.
        num_pages: of the pool.
    """

    __slots__ = ("_epoch", "_epoch_evictions", "_policy")

    def __init__(self, policy: EvictionPolicy, num_pages: int) -> None:
        self._policy = policy
        self._epoch = 0
        self._epoch_evictions = HINT_TURNOVERS * num_pages

    def read(self, block: Block, reader_next_use: int | None) -> None:
        """Somebody begins to read a block. A reader with a planned next use was itself foreseen:
        what was known of the block is fulfilled, and it says what comes next when it has read."""
        if reader_next_use is not None:
            block.next_use = None

    def release(self, block: Block, next_use: int | None) -> None:
        """A reader says when the block will be needed again; the nearest of several counts."""
        if next_use is not None and (block.next_use is None or next_use <= block.next_use):
            block.next_use = next_use
            block.hinted_at = self._epoch

    def replace(self, block: Block, next_use: int | None) -> None:
        """Forgets what was known of a block's next use; now it is this."""
        block.hinted_at = self._epoch
        if block.next_use == next_use:
            return
        is_placed = block in self._policy
        if is_placed:
            self._policy.remove(block)
        block.next_use = next_use
        if is_placed:
            self._policy.add(block)

    def expire(self, blocks: Iterable[Block], *, num_evicted: int) -> None:
        """Forgets hints of the epoch before the last one; looks at `blocks` once per epoch.

        Args:
            blocks: all residents.
            num_evicted: since start; it is what time passes by.
        """
        epoch = num_evicted // self._epoch_evictions
        if epoch == self._epoch:
            return
        self._epoch = epoch
        for block in blocks:
            if block.next_use is not None and block.hinted_at < epoch - 1:
                self.replace(block, None)
