"""Shares the engine's room between runs: who waits goes in by weight, not by who came first."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Line:
    """The calls of one run that wait, and how much the run had so far in its own time."""

    clock: float = 0.0
    waiting: deque[tuple[asyncio.Future[None], float]] = field(default_factory=deque)


class FairGate:
    """Lets at most `capacity` calls be inside; belongs to one event loop.

    Start-time fair queueing: a run's clock advances by the cost of each of its calls over its
    weight, the run with the least clock goes next, and a run that comes or comes back starts at
    the clock of whoever went last, so that it neither waits behind what others queued before it
    nor makes up for the time when it wanted nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._num_inside = 0
        self._now = 0.0  # the clock of whoever went last
        self._lines: dict[str, _Line] = {}

    @contextlib.asynccontextmanager
    async def turn(self, run: str, *, cost: float, weight: float) -> AsyncIterator[None]:
        """Waits for the run's turn and holds a place.

        Args:
            run: who; calls of one run go in in the order in which they came.
            cost: of this call, in any unit that all calls share.
            weight: of the run; twice the weight is twice the room.
        """
        line = self._lines.setdefault(run, _Line())
        if not line.waiting:
            line.clock = max(line.clock, self._now)
        if self._num_inside < self._capacity:
            self._admit(line, cost / weight)
        else:
            await self._wait(line, cost / weight)
        try:
            yield
        finally:
            self._leave()

    def forget(self, run: str) -> None:
        """The run is over and has no calls any more."""
        self._lines.pop(run, None)

    async def _wait(self, line: _Line, share: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        line.waiting.append((turn, share))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the place was given in the same moment
            else:
                line.waiting.remove((turn, share))
            raise

    def _admit(self, line: _Line, share: float) -> None:
        self._num_inside += 1
        self._now = line.clock
        line.clock += share

    def _leave(self) -> None:
        self._num_inside -= 1
        lines = [line for line in self._lines.values() if line.waiting]
        if lines and self._num_inside < self._capacity:
            line = min(lines, key=lambda line: line.clock)
            turn, share = line.waiting.popleft()
            self._admit(line, share)
            turn.set_result(None)
