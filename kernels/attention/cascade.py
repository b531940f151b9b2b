"""Which prefixes several sequences of a step read together: cascade attention on the host."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeCosts:
    """The cost rule, in units of one row reading one page on its own.

    Measured on CPU with 12 query heads on 4 KV heads of size 64 (README.md); only ratios matter.

    Attributes:
        block: starting a block and merging its result.
        page: a block reading one page, whatever its rows.
        row: one row of a block (real or padding) on one page.
    """

    block: float
    page: float
    row: float

    def block_page(self, num_rows: int) -> float:
        """A block of `num_rows` rows reading one page."""
        return self.page + self.row * num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """Sequences that read pages [start, end) of their tables together.

    Attributes:
        members: sequence numbers, ascending; equal pages in these columns.
        start: first page column.
        end: column after the last.
    """

    members: tuple[int, ...]
    start: int
    end: int


def find_prefix_groups(
    page_tables: np.ndarray, shareable: np.ndarray, pays: Callable[[PrefixGroup], bool]
) -> list[PrefixGroup]:
    """The tree of shared prefixes, as far as it pays.

    Sequences with equal leading page ids form a tree; every inner node is a candidate group over
    the columns between its parent's accepted end and its own depth. A node that does not pay
    leaves its columns to its children, so groups nest and no column of a sequence is in two.

    Args:
        page_tables: integers [S, columns].
        shareable: integers [S], leading columns that may be shared at all: complete pages wholly
            before the sequence's first query row.
        pays: whether a group is worth having.

    Returns:
        Groups in the order parents before children.
    """
    candidates = np.flatnonzero(shareable > 0)
    if len(candidates) < 2:
        return []
    first_pages = page_tables[candidates, 0]
    _, inverse, counts = np.unique(first_pages, return_inverse=True, return_counts=True)
    candidates = candidates[counts[inverse] > 1]
    if len(candidates) < 2:
        return []

    width = int(shareable[candidates].max())
    tables = np.ascontiguousarray(page_tables[candidates, :width], np.int32)
    tables[np.arange(width) >= shareable[candidates, None]] = -1
    # Bytes in order need not be numbers in order: any total order puts equal prefixes side by side.
    keys = [row.tobytes() for row in tables]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    tables, candidates = tables[order], candidates[order]
    differs = (tables[1:] != tables[:-1]) | (tables[1:] < 0)
    common = np.where(differs.any(axis=1), differs.argmax(axis=1), width)

    groups: list[PrefixGroup] = []

    def visit(low: int, high: int, start: int) -> None:
        """Sequences low..high-1 agree on columns before start, which are already read."""
        while high - low > 1:
            depth = int(common[low : high - 1].min())
            if depth > start:
                members = tuple(sorted(candidates[low:high].tolist()))
                group = PrefixGroup(members=members, start=start, end=depth)
                if pays(group):
                    groups.append(group)
                    start = depth
            splits = [low + int(i) + 1 for i in np.flatnonzero(common[low : high - 1] == depth)]
            edges = [low, *splits, high]
            for left, right in itertools.pairwise(edges[:-1]):
                visit(left, right, start)
            low = edges[-2]

    visit(0, len(candidates), 0)
    return groups
