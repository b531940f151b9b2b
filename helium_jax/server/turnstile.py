"""A burst of requests is let in a few at a time, so that it does not delay streams that run."""

import asyncio
from collections import deque

# Reading and checking a request takes about half a millisecond of the event loop.
PER_TURN = 8


class Turnstile:
    """Lets `per_turn` callers pass between two turns of the event loop; others wait in line."""

    def __init__(self, per_turn: int = PER_TURN) -> None:
        self._per_turn = per_turn
        self._num_passed = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turn: asyncio.Handle | None = None

    async def pass_through(self) -> None:
        """Returns at once if few have passed in this turn, else when it is the caller's."""
        loop = asyncio.get_running_loop()
        if self._turn is None:
            self._turn = loop.call_soon(self._begin_turn, loop)
        if self._num_passed < self._per_turn and not self._waiting:
            self._num_passed += 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        await place

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._num_passed = 0
        while self._waiting and self._num_passed < self._per_turn:
            place = self._waiting.popleft()
            if not place.done():  # its client may have left
                place.set_result(None)
                self._num_passed += 1
        again = self._num_passed or self._waiting
        self._turn = loop.call_soon(self._begin_turn, loop) if again else None
