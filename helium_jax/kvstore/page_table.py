"""The page table: what one sequence holds of the store."""

from dataclasses import dataclass, field

from helium_jax.kvstore.prefix_index import Block, BlockKey


@dataclass(slots=True, eq=False, kw_only=True)
class PageTable:
    """Pages and shareable blocks of one sequence; only `Store` changes it.

    Attributes:
        root: parent of its first block.
        next_use: planned next use of its pages; see GenerateRequest.
        pages: page ids; token i lies in `pages[i // page_size]`.
        keys: of the full blocks among the tokens known so far; kept after release.
        blocks: the shareable blocks it has references on: those of its first pages. Page i is the
            sequence's own copy of block i as long as `pages[i] != blocks[i].page`.
        copies: such i, whose pages are merged at the next commit.
    """

    root: bytes
    next_use: int | None = None
    pages: list[int] = field(default_factory=list)
    keys: list[BlockKey] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
