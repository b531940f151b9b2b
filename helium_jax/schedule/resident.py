"""What a worker's KV store probably holds: the pages of the prompts sent there, least recent out.

A mirror for placement, kept by the plan side without asking the engine. It errs where the engine
evicts by other rules, or where other runs use it too; a wrong guess costs time, never an answer.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice


class Resident:
    """Pages of prompts by `page_hashes`, bounded by the worker's capacity."""

    __slots__ = ("_max_pages", "_pages")

    def __init__(self, page_size: int, kv_tokens: int) -> None:
        self._max_pages = max(kv_tokens // page_size, 1)
        self._pages: OrderedDict[int, None] = OrderedDict()

    def match(self, pages: Sequence[int]) -> int:
        """How many leading pages of a prompt are probably there."""
        for index, page in enumerate(pages):
            if page not in self._pages:
                return index
        return len(pages)

    def use(self, pages: Sequence[int]) -> None:
        """Notes that a prompt was sent to the worker."""
        for page in reversed(pages):  # so that a prefix never goes before what follows it
            self._pages[page] = None
            self._pages.move_to_end(page)
        for page in list(islice(self._pages, max(len(self._pages) - self._max_pages, 0))):
            del self._pages[page]


def page_hashes(token_ids: Sequence[int], page_size: int) -> tuple[int, ...]:
    """A number per full page that stands for it and for all before it.

    Python's own hash is enough here: it is the same in every process for integers, and a collision
    misplaces a call.
    """
    hashes = []
    parent = 0
    for start in range(0, len(token_ids) - page_size + 1, page_size):
        parent = hash((parent, tuple(token_ids[start : start + page_size])))
        hashes.append(parent)
    return tuple(hashes)
