"""The invariants of the store, recomputed from scratch."""

from collections import Counter
from collections.abc import Iterable

from helium_jax.kvstore.eviction import EvictionPolicy
from helium_jax.kvstore.page_pool import PagePool
from helium_jax.kvstore.page_table import PageTable
from helium_jax.kvstore.prefix_index import Block, PrefixIndex
from helium_jax.types import CacheSnapshot


def find_broken_invariant(
    *,
    pool: PagePool,
    index: PrefixIndex,
    policy: EvictionPolicy,
    tables: Iterable[PageTable],
    pins: Iterable[list[Block]],
    snapshot: CacheSnapshot,
    num_available: int,
    pin_pages: int,
) -> str | None:
    """Says which invariant does not hold, or None.

    1. A page's references are those of the tables, counted; a private page has exactly one and is
       not in the index.
    2. Every page is free, cached or used, and only one of them.
    3. A block's parent is resident, and every table that reads a block reads its parent: so a
       prefix is never evicted before what follows it.
    4. The policy holds exactly the idle, unpinned blocks that no resident block follows.
    5. Pins are counted, cover prefixes, and keep to their budget.
    """
    blocks = index.blocks()
    residents = set(blocks)
    page_of_block = {block.page for block in blocks}
    if len(page_of_block) != len(blocks):
        return "two blocks share a page"
    expected: Counter[int] = Counter()
    for table in tables:
        parent = None
        for i, block in enumerate(table.blocks):
            if block not in residents:
                return f"a table reads block {i}, which is not resident"
            if block.parent is not parent or block.key != table.keys[i]:
                return f"a table reads block {i} without its parent"
            parent = block
            expected[block.page] += 1
        copies = [i for i, b in enumerate(table.blocks) if b.page != table.pages[i]]
        if copies != table.copies:
            return f"copies {copies} of a table are noted as {table.copies}"
        private = [table.pages[i] for i in copies] + table.pages[len(table.blocks) :]
        for page in private:
            if expected[page] or page in page_of_block:
                return f"private {page=} is shared"
            expected[page] += 1
    for page, count in enumerate(pool.references):
        if count != expected[page]:
            return f"{page=} has {count} references and {expected[page]} readers"
    free = Counter(pool.free_pages)
    for page in range(pool.num_pages):
        places = free[page] + (expected[page] > 0 or page in page_of_block)
        if places != 1:
            return f"{page=} is in {places} places, not in one"
    children = Counter(block.parent for block in blocks if block.parent is not None)
    pinned = Counter(block for held in pins for block in held)
    num_idle_unpinned = 0
    for block in blocks:
        if block.parent is not None and block.parent not in residents:
            return f"the parent of the block on page {block.page} is not resident"
        if block.num_children != children[block]:
            return f"the block on page {block.page} has miscounted its children"
        if block.num_pins != pinned[block]:
            return f"the block on page {block.page} has miscounted its pins"
        if block.num_pins and block.parent is not None and block.parent.num_pins == 0:
            return f"the block on page {block.page} is pinned and its parent is not"
        idle = pool.references[block.page] == 0 and block.num_pins == 0
        num_idle_unpinned += idle
        if (idle and block.num_children == 0) != (block in policy):
            return f"the block on page {block.page} is wrongly in or out of the eviction order"
    num_leaves = sum(block in policy for block in blocks)
    if len(policy) != num_leaves:
        return f"the eviction order holds {len(policy)} blocks, of which {num_leaves} are resident"
    if set(pinned) - residents:
        return "a pinned block is not resident"
    if len(pinned) != snapshot.num_pinned or len(pinned) > pin_pages:
        return f"{len(pinned)} blocks are pinned; counted {snapshot.num_pinned}, budget {pin_pages}"
    num_cached = sum(pool.references[block.page] == 0 for block in blocks)
    if snapshot.num_cached != num_cached:
        return f"{num_cached} pages are cached; counted {snapshot.num_cached}"
    if snapshot.num_used != sum(count > 0 for count in expected.values()):
        return f"counted {snapshot.num_used} used pages"
    if snapshot.num_free + snapshot.num_cached + snapshot.num_used != pool.num_pages:
        return "free + cached + used is not the pool"
    if num_available != pool.num_free + num_idle_unpinned:
        return f"{num_available=} and {pool.num_free + num_idle_unpinned} could be handed out"
    return None
