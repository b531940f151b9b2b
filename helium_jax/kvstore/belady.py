"""The offline optimum of eviction: a recorded trace replayed by somebody who knows the future.

Belady's rule (IBM Systems Journal 5(2), 1966): whenever a page is wanted and none is free, the
idle block goes whose next use is furthest away. Who holds pages when is taken from the trace, so
this is the least regret possible for that order of work.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence

from helium_jax.kvstore.trace import Ends, Event, Holds, Needs, Shares


def least_regret(events: Sequence[Event], *, num_pages: int) -> int:
    """Blocks that have to be computed again although they were resident once, at best.

    Args:
        events: from a `Recorder`; may end anywhere.
        num_pages: of the pool.
    """
    replay = _Replay(events, num_pages)
    for time, event in enumerate(events):
        replay.step(time, event)
    return replay.num_needed


class _Replay:
    """A store that sees the future. Blocks are ids; a page is worth one."""

    def __init__(self, events: Sequence[Event], num_pages: int) -> None:
        self.num_needed = 0
        self._num_free = num_pages
        self._uses: defaultdict[int, list[int]] = defaultdict(list)  # latest first
        self._depth: dict[int, int] = {}
        for time in range(len(events) - 1, -1, -1):
            event = events[time]
            if isinstance(event, Needs):
                for depth, block in enumerate(event.blocks):
                    self._uses[block].append(time)
                    self._depth[block] = depth
        self._readers: dict[int, int] = {}  # of resident blocks
        self._evicted: set[int] = set()
        self._idle: list[tuple[float, int, int]] = []  # entries may be out of date
        self._blocks_of: dict[int, dict[int, None]] = {}
        self._num_private: dict[int, int] = {}

    def step(self, time: int, event: Event) -> None:
        match event:
            case Needs(table, blocks):
                self._begin(time, table, blocks)
            case Holds(table, num_pages):
                self._hold(table, num_pages)
            case Shares(table, blocks):
                for block in blocks:
                    self._share(table, block)
            case Ends(table):
                self._end(table)

    def _begin(self, time: int, table: int, blocks: tuple[int, ...]) -> None:
        held = self._blocks_of[table] = {}
        self._num_private[table] = 0
        for block in blocks:
            uses = self._uses[block]
            while uses and uses[-1] <= time:
                uses.pop()
            if block in self._readers and len(held) == self._depth[block]:
                self._readers[block] += 1
                held[block] = None
            elif self._readers.get(block) == 0:
                self._offer(block)  # behind a gap: idle on, until a later use

    def _hold(self, table: int, num_pages: int) -> None:
        wanted = num_pages - len(self._blocks_of[table]) - self._num_private[table]
        self._num_free -= wanted
        self._num_private[table] += wanted
        # Below zero at worst: two sequences may compute here what they shared in the trace.
        while self._num_free < 0 and self._evict():
            self._num_free += 1

    def _share(self, table: int, block: int) -> None:
        held = self._blocks_of[table]
        if block in held:
            return
        held[block] = None
        self._num_private[table] -= 1
        if block in self._readers:  # computed twice: one page of the two is free again
            self._readers[block] += 1
            self._num_free += 1
            return
        self._readers[block] = 1
        self._depth.setdefault(block, len(held) - 1)
        if block in self._evicted:
            self._evicted.remove(block)
            self.num_needed += 1

    def _end(self, table: int) -> None:
        self._num_free += self._num_private.pop(table)
        for block in self._blocks_of.pop(table):
            self._readers[block] -= 1
            if self._readers[block] == 0:
                self._offer(block)

    def _offer(self, block: int) -> None:
        heapq.heappush(self._idle, (-self._next_use(block), -self._depth[block], block))

    def _next_use(self, block: int) -> float:
        uses = self._uses[block]
        return uses[-1] if uses else math.inf

    def _evict(self) -> bool:
        while self._idle:
            next_use, _, block = heapq.heappop(self._idle)
            if self._readers.get(block) == 0 and -next_use == self._next_use(block):
                del self._readers[block]
                self._evicted.add(block)
                return True
        return False
