"""The pages of the pool: which are free, and how many readers each of the others has."""


class PagePool:
    """Free list and reference counts over page ids `[0, num_pages)`.

    A page is free, or somebody's: a page with no references that is not free holds a cached
    block (the store knows which).
    """

    __slots__ = ("_free", "num_pages", "references")

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.references = [0] * num_pages
        # A stack: the page freed last is taken first, while its lines may still be in a cache.
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def free_pages(self) -> tuple[int, ...]:
        return tuple(self._free)

    def take(self) -> int:
        """Removes a page from the free list and gives it one reference."""
        page = self._free.pop()
        self.references[page] = 1
        return page

    def give_back(self, page: int) -> None:
        """Puts a page without references on the free list."""
        assert self.references[page] == 0, f"{page=} is freed while somebody reads it"
        self._free.append(page)
