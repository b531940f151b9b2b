"""A paged prefix cache of limited size, for simulations: what a worker's KV store would hold."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Eviction = Literal["plan", "lru"]


@dataclass(slots=True, eq=False)
class _Page:
    key: int
    parent: "_Page | None"
    num_readers: int = 1
    num_children: int = 0
    next_use: int | None = None
    last_used: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """The pages of one sequence: shared ones by key, private ones by number."""

    shared: list[_Page] = field(default_factory=list)
    num_private: int = 0

    @property
    def num_pages(self) -> int:
        return len(self.shared) + self.num_private


class SimulatedStore:
    """Pages that are read, pages that could be read again, and pages that are free.

    Only whole pages are shared, and what nobody reads goes from its end, never from its middle:
    without a planned next use first, then the greatest next use, then the least recently used;
    under "lru" the least recently used alone.
    """

    def __init__(self, num_pages: int, *, eviction: Eviction = "plan") -> None:
        self.num_pages = num_pages
        self.num_evicted = 0
        self._eviction = eviction
        self._pages: dict[int, _Page] = {}
        self._num_private = 0
        self._num_read = 0
        self._clock = 0
        self._heap: list[tuple[tuple[int, ...], int, _Page]] = []
        self._tickets: dict[int, int] = {}
        self._next_ticket = 0

    @property
    def num_available(self) -> int:
        """Pages that a sequence can get: free ones and those that nobody reads."""
        return self.num_pages - self._num_private - self._num_read

    def match(self, keys: Sequence[int]) -> int:
        """How many leading pages are there."""
        for index, key in enumerate(keys):
            if key not in self._pages:
                return index
        return len(keys)

    def count_idle(self, keys: Sequence[int]) -> int:
        """How many of these resident pages nobody reads."""
        return sum(self._pages[key].num_readers == 0 for key in keys)

    def open(self, keys: Sequence[int], num_matched: int, num_private: int) -> Lease:
        """Takes the matched pages, and private ones for the rest."""
        lease = Lease()
        for key in keys[:num_matched]:
            page = self._pages[key]
            if page.num_readers == 0:
                self._num_read += 1
                self._tickets.pop(key, None)
            page.num_readers += 1
            lease.shared.append(page)
        self.grow(lease, num_private)
        return lease

    def grow(self, lease: Lease, num_pages: int) -> None:
        """Adds private pages, evicting where none is free."""
        self._num_private += num_pages
        lease.num_private += num_pages
        while self._num_private + len(self._pages) > self.num_pages:
            self._evict()

    def publish(self, lease: Lease, keys: Sequence[int]) -> None:
        """Makes the sequence's first `len(keys)` pages shareable."""
        for key in keys[len(lease.shared) :]:
            page = self._pages.get(key)
            if page is None:
                parent = lease.shared[-1] if lease.shared else None
                page = self._pages[key] = _Page(key, parent)
                self._num_read += 1
                if parent is not None:
                    parent.num_children += 1
            else:  # another one has it too: this copy is free again
                if page.num_readers == 0:
                    self._num_read += 1
                    self._tickets.pop(key, None)
                page.num_readers += 1
            self._num_private -= 1
            lease.num_private -= 1
            lease.shared.append(page)

    def close(self, lease: Lease, next_use: int | None) -> None:
        """Gives all pages back; shared ones stay for others until they are evicted."""
        self._clock += 1
        self._num_private -= lease.num_private
        for page in reversed(lease.shared):
            page.num_readers -= 1
            page.last_used = self._clock
            if next_use is not None:
                page.next_use = next_use
            if page.num_readers == 0:
                self._num_read -= 1
                self._offer(page)
        lease.shared.clear()
        lease.num_private = 0

    def foresee(self, keys: Sequence[int], next_use: int | None) -> None:
        """Notes when resident pages are needed again."""
        for key in keys:
            page = self._pages.get(key)
            if page is None:
                return
            page.next_use = next_use
            self._offer(page)

    def _offer(self, page: _Page) -> None:
        """Puts a page that may go among those to evict."""
        if page.num_readers or page.num_children:
            return
        self._next_ticket += 1
        self._tickets[page.key] = self._next_ticket
        heapq.heappush(self._heap, (self._order(page), self._next_ticket, page))

    def _order(self, page: _Page) -> tuple[int, ...]:
        if self._eviction == "lru":
            return (page.last_used,)
        if page.next_use is None:
            return (0, 0, page.last_used)
        return (1, -page.next_use, page.last_used)

    def _evict(self) -> None:
        while True:
            _, ticket, page = heapq.heappop(self._heap)
            if self._tickets.get(page.key) == ticket:
                break
        del self._tickets[page.key]
        del self._pages[page.key]
        self.num_evicted += 1
        if page.parent is not None:
            page.parent.num_children -= 1
            self._offer(page.parent)
