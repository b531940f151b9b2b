"""Eviction: in which order idle blocks give up their pages."""

import heapq
from collections.abc import Callable
from typing import Protocol

from helium_jax.kvstore.prefix_index import Block


class EvictionPolicy(Protocol):
    """Orders the blocks that may be evicted now.

    The store offers only blocks that nobody reads, that are not pinned and that no resident block
    follows; a parent is offered when its last child has gone. So no order can cut a prefix off
    from the blocks behind it. A block's `next_use` and `last_used` do not change while it is here.
    """

    def __len__(self) -> int: ...
    def __contains__(self, block: Block) -> bool: ...
    def add(self, block: Block) -> None: ...
    def remove(self, block: Block) -> None: ...
    def pop(self) -> Block:
        """Removes and returns the block to evict next; there must be one."""
        ...


def plan_aware_order(block: Block) -> tuple[int, ...]:
    """Blocks without a planned next use first, then the greatest next use; then the oldest."""
    if block.next_use is None:
        return (0, 0, block.last_used)
    return (1, -block.next_use, block.last_used)


def least_recently_used_order(block: Block) -> tuple[int, ...]:
    """The block released longest ago first."""
    return (block.last_used,)


class HeapPolicy:
    """An `EvictionPolicy` that takes the smallest `order(block)` first, in O(log n).

    Removed blocks stay in the heap until they come up or outnumber the living, since nearly all
    removals are of blocks that were used again and return later with another place.
    """

    __slots__ = ("_heap", "_live", "_next_ticket", "_order")

    def __init__(self, order: Callable[[Block], tuple[int, ...]] = plan_aware_order) -> None:
        self._order = order
        self._heap: list[tuple[tuple[int, ...], int, Block]] = []
        self._live: dict[Block, int] = {}
        self._next_ticket = 0

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, block: Block) -> bool:
        return block in self._live

    def add(self, block: Block) -> None:
        ticket = self._next_ticket
        self._next_ticket += 1
        self._live[block] = ticket
        heapq.heappush(self._heap, (self._order(block), ticket, block))

    def remove(self, block: Block) -> None:
        del self._live[block]
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [entry for entry in self._heap if self._live.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def pop(self) -> Block:
        while True:
            _, ticket, block = heapq.heappop(self._heap)
            if self._live.get(block) == ticket:
                del self._live[block]
                return block
