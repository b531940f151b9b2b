"""What describes a step to attention: static capacities, and the arrays within them."""

import math
from dataclasses import dataclass, field

import jax

from helium_jax.kernels.attention.tuning import Target, choose_tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """Static capacities of one token bucket; hashable, so it may be a static argument of a jit.

    Attributes:
        num_tokens: T, rows of the flat token axis, padding included.
        num_seqs: S, most sequences of a step.
        pages_per_seq: C, most pages of one sequence.
        page_size: B, tokens of a page.
        num_pages: P, pages of the pool; the host refuses page ids beyond it.
        block_rows: R, query rows of a block (see `AttentionBatch`).
        run_pages: pages a block reads at a time; runs begin at multiples of it when a sequence is
            read from its start, whatever the block.
        unit_pages: pages that single rows read at a time, together.
        deterministic: a row's bits depend on its own sequence only: neither on its neighbours, nor
            on the chunk it came in, nor on the bucket, nor on what was cached.
        max_splits: most items a piece is cut into.
        max_parts: most items that hold a row, for backends that merge them in the end; 0: none do.
        num_workers: that share a list of items in equal parts; 0: pieces are not cut into items.
    """

    num_tokens: int
    num_seqs: int
    pages_per_seq: int
    page_size: int
    num_pages: int
    block_rows: int
    run_pages: int
    unit_pages: int
    deterministic: bool
    max_splits: int = 1
    max_parts: int = 0
    num_workers: int = 0

    @property
    def max_unit_items(self) -> int:
        """Every cut between workers makes one more item of a piece."""
        return self.num_seqs + self.num_workers

    @property
    def max_block_items(self) -> int:
        """Likewise."""
        return self.max_blocks + self.num_workers

    @property
    def max_blocks(self) -> int:
        """Enough for every sequence's own blocks; what is left over limits the prefix blocks.

        Kernels keep a tile of every block in memory, so with them little is left over.
        """
        if self.max_parts:
            partial = min(self.num_seqs, self.num_tokens // 2)  # one new token makes no block
            own = self.num_tokens // self.block_rows + partial
            return own + -(-self.num_seqs // self.block_rows) + 8
        return 2 * -(-self.num_tokens // self.block_rows) + self.num_seqs + self.num_seqs // 2

    @property
    def sections(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of every array in the packed ints, in their order."""
        seqs, blocks = self.num_seqs, self.max_blocks
        merged = (("row_parts", (self.num_tokens, self.max_parts)),) if self.max_parts else ()
        cut = (
            ("unit_items", (3, self.max_unit_items)),
            ("unit_workers", (self.num_workers + 1,)),
            ("block_items", (3, self.max_block_items)),
            ("block_workers", (self.num_workers + 1,)),
        )
        return (
            ("token_seqs", (self.num_tokens,)),
            ("token_positions", (self.num_tokens,)),
            ("page_tables", (seqs, self.pages_per_seq)),
            ("unit_rows", (seqs,)),
            ("unit_starts", (seqs,)),
            ("unit_ends", (seqs,)),
            ("block_counts", (2,)),
            ("block_rows", (blocks, self.block_rows)),
            ("block_seqs", (blocks,)),
            ("block_starts", (blocks,)),
            ("block_ends", (blocks,)),
            *merged,
            *(cut if self.num_workers else ()),
        )

    @property
    def num_ints(self) -> int:
        """int32 elements that `pack_batch` fills."""
        return sum(math.prod(shape) for _, shape in self.sections)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBatch:
    """One step as attention sees it, on the device.

    The first three fields say everything; `reference` reads only them. The rest is the same work
    cut into pieces for backends that walk a list: a *unit* is one row of a sequence and one of its
    pages, a *block* is up to R rows and a range of pages that they all see wholly or, at its end,
    causally. Every visible (row, key) pair is in exactly one piece. Windowed layers skip the prefix
    blocks and begin every piece where the window does, or at page 0.

    Kernels with workers read *items*: a piece, or a part of its columns, so that every worker reads
    about as many pages as the others. Kernels that write what each item saw apart from the others
    are told by `row_parts` where the items of a row are: item i of a unit has number i, row r of
    block item i has number max_unit_items + i * R + r. Without workers the pieces are the items.

    Attributes:
        token_seqs: int32 [T], the sequence of each row; -1 marks padding.
        token_positions: int32 [T], position of each row in its sequence; 0 for padding.
        page_tables: int32 [S, C], the pages of each sequence in order; 0 beyond its length.
        unit_rows: int32 [S], the row of a sequence that is read in units.
        unit_starts: int32 [S], first page column of its units: those before are in prefix blocks.
        unit_ends: int32 [S], column after its last unit; 0 for sequences without units.
        block_counts: int32 [2], number of own blocks (rows of one sequence), and of own and prefix
            blocks together; own blocks come first.
        block_rows: int32 [blocks, R], rows of each block; T marks padding.
        block_seqs: int32 [blocks], a sequence whose table holds the block's pages.
        block_starts: int32 [blocks], first page column; of own blocks, those before are in prefix
            blocks.
        block_ends: int32 [blocks], column after the last page.
        layout: the capacities.
        row_parts: int32 [T, max_parts], -1 where a row has no more; None without parts.
        unit_items: int32 [3, items], sequence, first column and column after the last; None
            without workers, as all below.
        unit_workers: int32 [num_workers + 1], worker w reads items [w] to [w + 1] - 1.
        block_items: int32 [3, items], likewise of blocks; those of own blocks come first.
        block_workers: int32 [num_workers + 1], likewise.
    """

    token_seqs: jax.Array
    token_positions: jax.Array
    page_tables: jax.Array
    unit_rows: jax.Array
    unit_starts: jax.Array
    unit_ends: jax.Array
    block_counts: jax.Array
    block_rows: jax.Array
    block_seqs: jax.Array
    block_starts: jax.Array
    block_ends: jax.Array
    layout: AttentionLayout = field(metadata=dict(static=True))
    row_parts: jax.Array | None = None
    unit_items: jax.Array | None = None
    unit_workers: jax.Array | None = None
    block_items: jax.Array | None = None
    block_workers: jax.Array | None = None


def make_layout(
    *,
    num_tokens: int,
    num_seqs: int,
    pages_per_seq: int,
    page_size: int,
    num_pages: int,
    deterministic: bool = False,
    target: Target | None = None,
    block_rows: int | None = None,
    run_pages: int | None = None,
    unit_pages: int | None = None,
) -> AttentionLayout:
    """The layout of one token bucket.

    A step of T tokens has at most T sequences with work, so callers pass
    `num_seqs=min(num_tokens, max_num_seqs)`. `target` is what will read it, XLA when left out. The
    last three arguments are tuning; None takes what `tuning.py` chooses. Deterministic engines
    give every bucket the same ones.

    Raises:
        ValueError: a capacity is below 1, or num_tokens below 2 in deterministic mode (a row that
            is alone in a product has other bits than one in company, see README.md).
    """
    tuning = choose_tuning(
        Target() if target is None else target,
        num_tokens=num_tokens,
        page_size=page_size,
        deterministic=deterministic,
    )
    layout = AttentionLayout(
        num_tokens=num_tokens,
        num_seqs=num_seqs,
        pages_per_seq=pages_per_seq,
        page_size=page_size,
        num_pages=num_pages,
        block_rows=tuning.block_rows if block_rows is None else block_rows,
        run_pages=tuning.run_pages if run_pages is None else run_pages,
        unit_pages=tuning.unit_pages if unit_pages is None else unit_pages,
        deterministic=deterministic,
        max_splits=tuning.max_splits,
        max_parts=tuning.max_parts,
        num_workers=tuning.num_workers,
    )
    for name in ("num_seqs", "pages_per_seq", "page_size", "num_pages", "run_pages", "unit_pages"):
        if getattr(layout, name) < 1:
            raise ValueError(f"{name}={getattr(layout, name)} must be at least 1")
    for name, least in (("num_tokens", 2 if deterministic else 1), ("block_rows", 2)):
        if getattr(layout, name) < least:
            raise ValueError(f"{name}={getattr(layout, name)} must be at least {least}")
    return layout


def unpack_batch(layout: AttentionLayout, ints: jax.Array) -> AttentionBatch:
    """Takes apart, inside the step, what `pack_batch` filled: ints is int32 [layout.num_ints].

    Raises:
        ValueError: ints has another shape or dtype.
    """
    if ints.shape != (layout.num_ints,) or ints.dtype != "int32":
        raise ValueError(
            f"ints is {ints.dtype}{list(ints.shape)}; expected int32[{layout.num_ints}]"
        )
    arrays = {}
    start = 0
    for name, shape in layout.sections:
        end = start + math.prod(shape)
        arrays[name] = ints[start:end].reshape(shape)
        start = end
    return AttentionBatch(**arrays, layout=layout)
