"""Regret: what was evicted and then had to be computed again."""

from collections import OrderedDict


class Regret:
    """Remembers the digests of blocks evicted last.

    Attributes:
        num_evicted: blocks evicted since start.
        num_needed: of those, computed again since.
    """

    __slots__ = ("_capacity", "_digests", "num_evicted", "num_needed")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._digests: OrderedDict[bytes, None] = OrderedDict()
        self.num_evicted = 0
        self.num_needed = 0

    def evicted(self, digest: bytes) -> None:
        """A block lost its page to another one."""
        self.num_evicted += 1
        self._digests[digest] = None
        if len(self._digests) > self._capacity:
            self._digests.popitem(last=False)

    def computed(self, digest: bytes) -> None:
        """A block was made resident; a regret when it had been before."""
        if digest in self._digests:
            del self._digests[digest]
            self.num_needed += 1

    def forget(self) -> None:
        """What was evicted before is no regret any more."""
        self._digests.clear()
