"""A bounded picture of a store: what every page is, and the prefix tree as stretches of pages."""

import heapq
import itertools
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from helium_jax.kvstore.page_pool import PagePool
from helium_jax.kvstore.prefix_index import Block, PrefixIndex, is_first
from helium_jax.types import CachedPrefix

MAX_CELLS = 8192
MAX_PREFIXES = 512
MAX_TOKENS = 48  # told of one stretch

FREE, CACHED, PRIVATE, SHARED = "fcps"
_BUSYNESS = {letter: rank for rank, letter in enumerate("fcCpPsS")}


def draw_cells(
    pool: PagePool, index: PrefixIndex, *, max_cells: int = MAX_CELLS
) -> tuple[int, str]:
    """Pages per cell, and a letter per cell; see `CacheMap.cells`. O(pages)."""
    letters = [
        FREE if readers == 0 else PRIVATE if readers == 1 else SHARED for readers in pool.references
    ]
    for block in index.blocks():
        page = block.page
        letter = CACHED if pool.references[page] == 0 else letters[page]
        letters[page] = letter.upper() if block.num_pins else letter
    size = max(-(-len(letters) // max_cells), 1)
    if size == 1:
        return 1, "".join(letters)
    cells = (letters[start : start + size] for start in range(0, len(letters), size))
    return size, "".join(max(cell, key=_BUSYNESS.__getitem__) for cell in cells)


@dataclass(slots=True, eq=False, kw_only=True)
class _Stretch:
    """Blocks that follow each other without a branch."""

    blocks: list[Block]
    children: list[Block]
    parent: int | None
    is_told: bool


def draw_prefixes(
    index: PrefixIndex,
    references: Sequence[int],
    *,
    roots: Collection[bytes] | None,
    max_prefixes: int = MAX_PREFIXES,
) -> tuple[tuple[CachedPrefix, ...], int]:
    """The largest stretches of the prefix tree, and how many pages are in the others. O(pages).

    Args:
        index: of the store.
        references: readers by page.
        roots: tokens are told of what begins at one of these alone; None: of all.
        max_prefixes: most stretches.
    """
    children: dict[Block | None, list[Block]] = {}
    num_pages: dict[Block, int] = {}  # of a block and all behind it
    for block in reversed([*index.blocks()]):  # a parent was added before those behind it
        num_pages[block] = 1 + sum(num_pages[child] for child in children.get(block, ()))
        children.setdefault(block.parent, []).append(block)

    order = itertools.count()
    queue: list[tuple[int, int, _Stretch]] = []

    def push(blocks: Iterable[Block], parent: int | None, is_told: bool | None) -> None:
        for block in blocks:
            told = is_told if is_told is not None else _is_told(block, roots)
            stretch = _follow(block, children, parent=parent, is_told=told)
            heapq.heappush(queue, (-num_pages[block], next(order), stretch))

    push(children.get(None, ()), None, None)
    prefixes: list[CachedPrefix] = []
    while queue and len(prefixes) < max_prefixes:
        _, _, stretch = heapq.heappop(queue)
        first, last = stretch.blocks[0], stretch.blocks[-1]
        push(stretch.children, len(prefixes), stretch.is_told)
        prefixes.append(
            CachedPrefix(
                parent=stretch.parent,
                num_pages=len(stretch.blocks),
                num_below=num_pages[last] - 1,
                num_readers=references[first.page],
                num_pinned=sum(block.num_pins > 0 for block in stretch.blocks),
                token_ids=_first_tokens(stretch.blocks) if stretch.is_told else (),
            )
        )
    return tuple(prefixes), -sum(size for size, _, _ in queue)


def _follow(
    block: Block, children: dict[Block | None, list[Block]], *, parent: int | None, is_told: bool
) -> _Stretch:
    blocks = [block]
    while len(behind := children.get(blocks[-1], [])) == 1:
        blocks.append(behind[0])
    return _Stretch(blocks=blocks, children=behind, parent=parent, is_told=is_told)


def _is_told(block: Block, roots: Collection[bytes] | None) -> bool:
    return roots is None or any(is_first(block.key, root) for root in roots)


def _first_tokens(blocks: Sequence[Block]) -> tuple[int, ...]:
    ids: array[int] = array("i")
    for block in blocks:
        ids.frombytes(block.key.tokens)
        if len(ids) >= MAX_TOKENS:
            break
    return tuple(ids[:MAX_TOKENS])
