"""Shares the engines' room between runs: who waits goes in by weight, not by who came first."""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from helium_jax.executor.head_room import HeadRoom, Need, Seat


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiter:
    """A call that waits, and what it costs its run."""

    turn: asyncio.Future[Seat]
    number: int
    need: Need
    share: float


@dataclass(slots=True)
class _Line:
    """The calls of one run that wait, by the engine they want, and how much the run had so far in
    its own time."""

    clock: float = 0.0
    waiting: dict[int | None, deque[_Waiter]] = field(default_factory=dict)


class FairGate:
    """Lets calls in while there is room; belongs to one event loop.

    Start-time fair queueing: a run's clock advances by the cost of each of its calls over its
    weight, the run with the least clock goes next, and a run that comes or comes back starts at
    the clock of whoever went last, so that it neither waits behind what others queued before it
    nor makes up for the time when it wanted nothing. Whoever's turn it is and finds no pages keeps
    its engine closed until there are enough: nothing smaller overtakes it there.

    Room is looked for when a call comes, and while some wait, when an answer begins, grows or ends.
    """

    def __init__(self, room: HeadRoom) -> None:
        self._room = room
        self._now = 0.0  # the clock of whoever went last
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count()
        self._num_waiting = 0
        self._is_due = False  # a look for room that somebody's progress asked for

    @contextlib.asynccontextmanager
    async def turn(
        self, run: str, *, need: Need, cost: float, weight: float
    ) -> AsyncIterator[Seat]:
        """Waits for the run's turn and holds a seat.

        Args:
            run: who; calls of one run for one engine go in in the order in which they came.
            need: what the call wants of an engine.
            cost: of this call, in any unit that all calls share.
            weight: of the run; twice the weight is twice the room.
        """
        line = self._lines.setdefault(run, _Line())
        if not line.waiting:
            line.clock = max(line.clock, self._now)
        turn: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(turn=turn, number=next(self._numbers), need=need, share=cost / weight)
        line.waiting.setdefault(need.worker, deque()).append(waiter)
        self._num_waiting += 1
        self._let_in()
        try:
            seat = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(turn.result())  # it was given in the same moment
            else:
                self._remove(line, waiter)
                self._let_in()  # it may have kept others out
            raise
        try:
            yield seat
        finally:
            self._leave(seat)

    def grew(self, seat: Seat, num_tokens: int) -> None:
        """The answer of a call inside grew; what follows from all of a step is done once."""
        self._room.grew(seat, num_tokens)
        if self._num_waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._let_in)

    def forget(self, run: str) -> None:
        """The run is over and has no calls any more."""
        self._lines.pop(run, None)

    def _leave(self, seat: Seat) -> None:
        self._room.leave(seat)
        self._let_in()

    def _let_in(self) -> None:
        """Gives seats to those who wait, as far as there is room."""
        self._is_due = False
        if not self._num_waiting or self._room.is_full:
            return
        self._room.look()
        closed: set[int | None] = set()
        while not self._room.is_full:
            found = self._next(closed)
            if found is None:
                return
            line, waiter = found
            if waiter.turn.cancelled():  # it does not know yet
                self._remove(line, waiter)
                continue
            seat = self._room.take(waiter.need, closed)
            if seat is None and waiter.need.worker is None:
                return
            if seat is None:
                closed.add(waiter.need.worker)
                continue
            self._remove(line, waiter)
            self._now = line.clock
            line.clock += waiter.share
            waiter.turn.set_result(seat)

    def _next(self, closed: set[int | None]) -> tuple[_Line, _Waiter] | None:
        """Whose turn it is among those that want no closed engine."""
        heads = (
            (line, min(open_heads, key=lambda waiter: waiter.number))
            for line in self._lines.values()
            if (open_heads := [q[0] for worker, q in line.waiting.items() if worker not in closed])
        )
        return min(heads, key=lambda head: head[0].clock, default=None)

    def _remove(self, line: _Line, waiter: _Waiter) -> None:
        queue = line.waiting.get(waiter.need.worker)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            self._num_waiting -= 1
            if not queue:
                del line.waiting[waiter.need.worker]
