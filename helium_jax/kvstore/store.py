"""The one door of the KV store: match, attach, append, commit, release, pin, snapshot."""

from collections.abc import Callable, Collection, Iterable
from collections.abc import Sequence as Indexable
from dataclasses import dataclass

from helium_jax.config import ResolvedEngineConfig
from helium_jax.errors import InternalError
from helium_jax.kvstore.eviction import EvictionPolicy, HeapPolicy
from helium_jax.kvstore.hints import Hints
from helium_jax.kvstore.invariants import find_broken_invariant
from helium_jax.kvstore.map import draw_cells, draw_prefixes
from helium_jax.kvstore.page_pool import PagePool
from helium_jax.kvstore.page_table import PageTable
from helium_jax.kvstore.pins import Pin, Pins
from helium_jax.kvstore.prefix_index import (
    DIGEST_BYTES,
    Block,
    PrefixIndex,
    extend_keys,
    make_root,
)
from helium_jax.kvstore.regret import Regret
from helium_jax.kvstore.trace import Recorder
from helium_jax.kvstore.trial import Trial
from helium_jax.types import CacheMap, CacheSnapshot, PlannedUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What `Store.pin` could do.

    Attributes:
        pin_id: handle for `unpin`; None when nothing was pinned.
        num_blocks: leading blocks pinned.
    """

    pin_id: int | None
    num_blocks: int


class Store:
    """Owner of all pages: reference counts, the prefix index, pins and counters.

    Not thread-safe; belongs to the engine thread. Its invariants are spelled out in `verify`.

    Args:
        page_size: tokens per page.
        num_pages: pages of the pool.
        pin_pages: most pages that may be pinned.
        model_version: digest of weights and config; part of every key.
        secret: random bytes, at most 64, that make this store's digests unguessable.
        prefix_caching: False makes every page private.
        policy: eviction order; defaults to plan-aware, then least recently used.
        num_remembered: evicted digests remembered to count regret; defaults to four pools' worth.
        recorder: is told of every use, for a trace.
        first_pin_id: ids below it were pins of the store before this one: all surrendered.
    """

    def __init__(
        self,
        *,
        page_size: int,
        num_pages: int,
        pin_pages: int = 0,
        model_version: str = "",
        secret: bytes,
        prefix_caching: bool = True,
        policy: EvictionPolicy | None = None,
        num_remembered: int | None = None,
        recorder: Recorder | None = None,
        first_pin_id: int = 1,
    ) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.pin_pages = pin_pages
        self.prefix_caching = prefix_caching
        self._model_version = model_version
        self._secret = secret
        self._pool = PagePool(num_pages)
        self._index = PrefixIndex()
        self._policy = HeapPolicy() if policy is None else policy
        self._hints = Hints(self._policy, num_pages)
        self._tables: set[PageTable] = set()
        self._recorder = recorder
        self._pins = Pins(first_pin_id)
        self._clock = 0
        self._num_cached = 0
        self._num_pinned = 0
        self._num_idle_pinned = 0
        self._num_surrendered = 0
        self._regret = Regret(4 * num_pages if num_remembered is None else num_remembered)
        self._queried_tokens = 0
        self._hit_tokens = 0

    @property
    def num_available(self) -> int:
        """Pages that `append` can hand out without touching a pin: free ones and those of idle,
        unpinned blocks."""
        return self._pool.num_free + self._num_cached - self._num_idle_pinned

    @property
    def num_surrenderable(self) -> int:
        """Pages that `append` can hand out beyond that, by giving pins up."""
        return self._num_idle_pinned

    @property
    def next_pin_id(self) -> int:
        """Larger than any pin id so far."""
        return self._pins.next_id

    def open_table(self, *, salt: str = "", next_use: int | None = None) -> PageTable:
        """A table without pages; it costs nothing until `attach` or `append`."""
        root = make_root(self._secret, self._model_version, salt)
        return PageTable(root=root, next_use=next_use)

    def extend_keys(self, table: PageTable, token_ids: Indexable[int]) -> None:
        """Hashes the full blocks of `token_ids` that `table` has no keys for yet."""
        if self.prefix_caching:
            extend_keys(table.keys, table.root, token_ids, self.page_size)

    def match(self, table: PageTable, max_blocks: int) -> list[Block]:
        """The resident leading blocks, at most `max_blocks`. Changes nothing; valid until the
        next verb that does."""
        return self._index.match(table.keys[:max_blocks])

    def count_match(self, table: PageTable, max_blocks: int) -> int:
        """How many blocks `match` would find, by digests alone, in O(log n)."""
        return self._index.count_match(table.keys, max_blocks)

    def attach(self, table: PageTable, num_blocks: int) -> int:
        """Takes references on the resident leading blocks up to `num_blocks`; returns how many
        the table has now. The table must not have private pages."""
        assert len(table.pages) == len(table.blocks), "attach comes before append"
        references = self._pool.references
        for block in self._index.match(table.keys[len(table.blocks) : num_blocks]):
            if references[block.page] == 0:
                self._end_idle(block)
            references[block.page] += 1
            self._hints.read(block, table.next_use)
            table.pages.append(block.page)
            table.blocks.append(block)
        if table.pages:
            self._tables.add(table)
            self._record(table)
        return len(table.blocks)

    def append(self, table: PageTable, num_pages: int) -> None:
        """Adds private pages, evicting idle blocks when the free ones run out, and giving up pins,
        the least valuable first, when those do.

        Raises:
            InternalError: fewer than `num_pages` can be had; nothing was changed.
        """
        num_possible = self.num_available + self.num_surrenderable
        if num_pages > num_possible:
            raise InternalError(
                f"{num_pages=} were asked for and {num_possible} can be had; "
                "the batcher must preempt first"
            )
        for _ in range(num_pages):
            if self._pool.num_free == 0:
                self._evict()
            table.pages.append(self._pool.take())
        if table.pages:
            self._tables.add(table)
            self._record(table)

    def commit(self, table: PageTable, num_tokens: int) -> None:
        """Makes the full blocks among the first `num_tokens` tokens shareable.

        Their KV must be written by the steps dispatched so far or by the one being planned. Call
        it at most once per table while a step is planned, and not again before that step has been
        packed: copies noted by one call are merged by the next, which frees pages that the step
        in between writes.
        """
        if table.copies:
            self._merge_copies(table)
        references = self._pool.references
        for i in range(len(table.blocks), min(num_tokens // self.page_size, len(table.keys))):
            key, page = table.keys[i], table.pages[i]
            parent = table.blocks[-1] if table.blocks else None
            block = self._index.get(key)
            if block is None:
                if self._index.has_digest(key.digest):
                    return  # equal hashes of unequal tokens: this sequence's blocks stay private
                self._regret.computed(key.digest)
                block = self._index.add(key, parent, page)
            elif references[block.page] == 0:
                # Nobody reads the older page: the block moves to ours, and that one is free.
                self._end_idle(block)
                self._pool.give_back(block.page)
                block.page = page
                self._hints.read(block, table.next_use)
            else:
                # Both pages are being read; ours cannot go before this step is on its way.
                references[block.page] += 1
                table.copies.append(i)
                self._hints.read(block, table.next_use)
            table.blocks.append(block)
        self._record(table)

    def release(self, table: PageTable, *, is_damaged: bool = False) -> None:
        """Gives back all pages of a table, which may be used again from empty.

        Shareable blocks that nobody else reads stay cached, unless `is_damaged` says that their KV
        may be wrong. Last blocks go first, so that a block is never idle before those behind it.
        """
        self._clock += 1
        references = self._pool.references
        for i in range(len(table.pages) - 1, -1, -1):
            page = table.pages[i]
            block = table.blocks[i] if i < len(table.blocks) else None
            if block is None or block.page != page:
                references[page] = 0
                self._pool.give_back(page)
            if block is not None:
                references[block.page] -= 1
                self._hints.release(block, table.next_use)
                block.last_used = self._clock
                if references[block.page] == 0:
                    self._begin_idle(block)
                    if is_damaged and block in self._policy:
                        self._policy.remove(block)
                        self._pool.give_back(self._drop(block))
        table.pages.clear()
        table.blocks.clear()
        table.copies.clear()
        self._tables.discard(table)
        if self._recorder is not None:
            self._recorder.released(table)

    def pin(self, table: PageTable, *, value: float = 0.0) -> Pinned:
        """Keeps the resident leading blocks of `table.keys` from eviction, as many as the budget
        allows when less valuable pins have given way; the table needs no pages."""
        blocks: list[Block] = []
        for block in self._index.match(table.keys):
            if block.num_pins == 0:
                while self._num_pinned == self.pin_pages:
                    if not self._surrender(lambda pin: pin.value < value):
                        break
                if self._num_pinned == self.pin_pages:
                    break
                self._num_pinned += 1
                if self._pool.references[block.page] == 0:
                    self._num_idle_pinned += 1
                    if block.num_children == 0:
                        self._policy.remove(block)
            block.num_pins += 1
            blocks.append(block)
        if not blocks:
            return Pinned(pin_id=None, num_blocks=0)
        return Pinned(pin_id=self._pins.add(blocks, value), num_blocks=len(blocks))

    def unpin(self, pin_id: int) -> None:
        """Gives a pin back.

        Raises:
            RequestError: there is no such pin.
        """
        self._end_pin(self._pins.remove(pin_id))

    def foresee(self, uses: Iterable[PlannedUse]) -> None:
        """Replaces the planned next use of the resident blocks that `uses` cover.

        Of equal prefixes the last one counts; a block that different ones cover gets the nearest.
        Also places idle blocks anew in the eviction order.
        """
        last = {(use.cache_salt, use.token_ids): use.next_use for use in uses}
        nearest: dict[Block, int | None] = {}
        for (salt, token_ids), next_use in last.items():
            table = self.open_table(salt=salt)
            self.extend_keys(table, token_ids)
            for block in self._index.match(table.keys):
                known = nearest.get(block)
                if known is None or (next_use is not None and next_use < known):
                    nearest[block] = next_use
        for block, next_use in nearest.items():
            self._hints.replace(block, next_use)

    def reset(self) -> int:
        """Forgets every block that nobody reads and that is not pinned; returns the pages freed.

        Not counted as evictions: nothing took the pages' place.
        """
        num_freed = 0
        while len(self._policy):
            self._pool.give_back(self._drop(self._policy.pop()))
            num_freed += 1
        self._regret.forget()
        return num_freed

    def count_lookup(self, queried_tokens: int, hit_tokens: int) -> None:
        """Adds one request's lookup to the counters."""
        self._queried_tokens += queried_tokens
        self._hit_tokens += hit_tokens

    def snapshot(self) -> CacheSnapshot:
        """The store at this moment."""
        num_free = self._pool.num_free
        return CacheSnapshot(
            page_size=self.page_size,
            num_pages=self.num_pages,
            num_free=num_free,
            num_cached=self._num_cached,
            num_used=self.num_pages - num_free - self._num_cached,
            num_pinned=self._num_pinned,
            queried_tokens=self._queried_tokens,
            hit_tokens=self._hit_tokens,
            evicted_pages=self._regret.num_evicted,
            evicted_then_needed_tokens=self._regret.num_needed * self.page_size,
            surrendered_pins=self._num_surrendered,
        )

    def map(self, salts: Collection[str] | None) -> CacheMap:
        """A picture of every page and of the prefix tree; see `Generator.cache_map`. O(pages)."""
        roots = None
        if salts is not None:
            roots = [make_root(self._secret, self._model_version, salt) for salt in salts]
        pages_per_cell, cells = draw_cells(self._pool, self._index)
        prefixes, num_folded = draw_prefixes(self._index, self._pool.references, roots=roots)
        return CacheMap(
            worker=0,
            page_size=self.page_size,
            pages_per_cell=pages_per_cell,
            cells=cells,
            prefixes=prefixes,
            num_folded=num_folded,
        )

    def trial(self) -> Trial:
        """A ledger to try allocations on; valid until the store changes."""
        return Trial(self._pool.references, self.num_available, self.num_surrenderable)

    def _begin_idle(self, block: Block) -> None:
        self._num_cached += 1
        if block.num_pins:
            self._num_idle_pinned += 1
        elif block.num_children == 0:
            self._policy.add(block)

    def _end_idle(self, block: Block) -> None:
        self._num_cached -= 1
        if block.num_pins:
            self._num_idle_pinned -= 1
        elif block.num_children == 0:
            self._policy.remove(block)

    def _drop(self, block: Block) -> int:
        """Forgets an idle block that has left the policy; returns its page. Its parent, if idle
        and now last of its chain, may go next."""
        self._index.remove(block)
        self._num_cached -= 1
        parent = block.parent
        if (
            parent is not None
            and parent.num_children == 0
            and parent.num_pins == 0
            and self._pool.references[parent.page] == 0
        ):
            self._policy.add(parent)
        return block.page

    def _evict(self) -> None:
        while len(self._policy) == 0 and self._surrender(self._has_idle_block):
            pass
        block = self._policy.pop()
        self._pool.give_back(self._drop(block))
        self._regret.evicted(block.key.digest)
        self._hints.expire(self._index.blocks(), num_evicted=self._regret.num_evicted)

    def _has_idle_block(self, pin: Pin) -> bool:
        return any(self._pool.references[block.page] == 0 for block in pin.blocks)

    def _surrender(self, may_go: Callable[[Pin], bool]) -> bool:
        blocks = self._pins.surrender(may_go)
        self._end_pin(blocks)
        self._num_surrendered += bool(blocks)
        return bool(blocks)

    def _end_pin(self, blocks: list[Block]) -> None:
        for block in reversed(blocks):
            block.num_pins -= 1
            if block.num_pins == 0:
                self._num_pinned -= 1
                if self._pool.references[block.page] == 0:
                    self._num_idle_pinned -= 1
                    if block.num_children == 0:
                        self._policy.add(block)

    def _record(self, table: PageTable) -> None:
        if self._recorder is not None:
            self._recorder.changed(table)

    def _merge_copies(self, table: PageTable) -> None:
        """Lets the table read the shared page of blocks it has a copy of, and frees the copy."""
        for i in table.copies:
            copy = table.pages[i]
            table.pages[i] = table.blocks[i].page
            self._pool.references[copy] = 0
            self._pool.give_back(copy)
        table.copies.clear()

    def verify(self) -> None:
        """Checks every invariant; for tests and idle moments, O(pages).

        Raises:
            InternalError: naming the invariant that does not hold.
        """
        problem = find_broken_invariant(
            pool=self._pool,
            index=self._index,
            policy=self._policy,
            tables=self._tables,
            pins=self._pins.held(),
            snapshot=self.snapshot(),
            num_available=self.num_available,
            pin_pages=self.pin_pages,
        )
        if problem is not None:
            raise InternalError(f"the KV store is inconsistent: {problem}")


def make_store(
    config: ResolvedEngineConfig, *, model_version: str, secret: bytes, first_pin_id: int = 1
) -> Store:
    """The store of an engine."""
    return Store(
        page_size=config.page_size,
        num_pages=config.num_pages,
        pin_pages=int(config.pin_budget * config.num_pages),
        model_version=model_version,
        secret=secret[: 2 * DIGEST_BYTES],
        prefix_caching=config.prefix_caching,
        first_pin_id=first_pin_id,
    )
