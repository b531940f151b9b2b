"""A clock that stands still until it is told to move."""

import asyncio
import heapq
import itertools


class ManualClock:
    """A clock that moves only when told to.

    `time` and `sleep` stand in for `time.monotonic` and `asyncio.sleep`; `advance` wakes the
    sleepers whose time has come.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        """Seconds since an arbitrary start."""
        return self._now

    @property
    def num_sleeping(self) -> int:
        """Calls of `sleep` that wait for the clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Waits until the clock has been advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves the clock, waking sleepers in the order of their times and letting them run."""
        until = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = until
        await settle()


async def settle(rounds: int = 20) -> None:
    """Lets every task that can run do so: tasks waiting for a future or a timer stay put."""
    for _ in range(rounds):
        await asyncio.sleep(0)
