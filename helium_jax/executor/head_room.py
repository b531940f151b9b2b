"""How many calls the engines take: places, and KV pages for what they hold and will come to hold.

The stores say what is free or may be evicted now, at the end of the last step, whoever uses the
rest. From that goes what the calls inside have not taken yet: the prompts of those without a first
token, a page that several read counted once and one that a started call reads not at all, and
what answers are going to need.
"""

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from math import ceil

from helium_jax.schedule.resident import page_hashes
from helium_jax.types import EngineStatistics

# Of an expected answer: others end, and give their pages back, while it grows.
HELD_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a call wants of an engine.

    Attributes:
        token_ids: its prompt.
        output_tokens: of its answer, as far as is expected.
        worker: which engine must run it; None for any.
    """

    token_ids: tuple[int, ...]
    output_tokens: float = 0.0
    worker: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Seat:
    """A call inside.

    Attributes:
        worker: which engine runs it.
        pages: its prompt's full pages, by `page_hashes`.
        num_prompt: tokens of its prompt.
        most: pages that it is expected to hold at its end.
        left: of those, the ones beside `pages` that it has not taken yet.
        num_tokens: of its answer so far; with the first one its prompt's pages are taken.
    """

    worker: int
    pages: tuple[int, ...]
    num_prompt: int
    most: int
    left: int
    num_tokens: int = 0


@dataclass(slots=True)
class _Engine:
    """What the calls inside are to one engine.

    Attributes:
        is_alive: takes requests.
        available: pages that nobody reads, as of the last look; None: whatever is wanted.
        page_size: tokens per page.
        load: requests that it has, ours and others'.
        seats: calls inside.
        read: prompt pages of calls that have begun to answer.
        wanted: prompt pages of calls that have not.
        num_wanted: different ones of these that are not read either.
        left: pages that answers are going to take.
    """

    is_alive: bool = True
    available: int | None = None
    page_size: int = 1
    load: int = 0
    seats: set[Seat] = field(default_factory=set)
    read: Counter[int] = field(default_factory=Counter)
    wanted: Counter[int] = field(default_factory=Counter)
    num_wanted: int = 0
    left: int = 0

    def count_new(self, pages: Sequence[int]) -> int:
        """Pages of a prompt that no call inside has."""
        return sum(not (self.read[page] or self.wanted[page]) for page in pages)


class HeadRoom:
    """Gives seats to calls while there is room; part of a `FairGate`.

    A call always gets a seat at an engine that has none of ours: then it waits in the engine's
    own queue for what others hold, and the engine says if it can never be.
    """

    def __init__(
        self,
        *,
        statistics: Callable[[], Sequence[EngineStatistics]],
        capacity: int,
        counts_pages: bool = True,
    ) -> None:
        """
        Args:
            statistics: of every engine, as of its last step.
            capacity: most calls inside, on all engines together.
            counts_pages: whether a call may have to wait although there is a place for it.
        """
        self._statistics = statistics
        self._capacity = capacity
        self._counts_pages = counts_pages
        self._engines: list[_Engine] = []
        self._num_inside = 0

    @property
    def is_full(self) -> bool:
        """Whether every place is taken, whatever the pages."""
        return self._num_inside >= self._capacity

    def look(self) -> None:
        """Reads the engines' statistics."""
        statistics = self._statistics()
        while len(self._engines) < len(statistics):
            self._engines.append(_Engine())
        for engine, now in zip(self._engines, statistics, strict=True):
            cache = now.cache
            engine.is_alive = now.is_alive
            is_bounded = self._counts_pages and now.is_alive and cache.num_pages > 0
            engine.available = cache.num_free + cache.num_cached if is_bounded else None
            engine.page_size = cache.page_size
            engine.load = max(now.num_waiting + now.num_running, len(engine.seats))

    def take(self, need: Need, closed: Container[int | None] = ()) -> Seat | None:
        """A seat for a call, or None if it has to wait; `look` before a series of these.

        Args:
            need: of the call.
            closed: engines that others wait for.
        """
        if self.is_full:
            return None
        for index in self._choices(need.worker):
            if index in closed:
                continue
            engine = self._engines[index]
            seat = _seat(index, need, engine.page_size)
            if self._fits(seat, engine):
                self._enter(seat, engine)
                return seat
        return None

    def _choices(self, worker: int | None) -> Sequence[int]:
        """The engines that may run a call: the one it names, dead or not, for that one refuses at
        once; or those alive, the least loaded first, as a pool would choose."""
        if worker is not None:
            return (worker,)
        everyone = range(len(self._engines))
        alive = [index for index in everyone if self._engines[index].is_alive] or everyone
        return sorted(alive, key=lambda index: self._engines[index].load)

    def grew(self, seat: Seat, num_tokens: int) -> None:
        """A call's answer grew."""
        if num_tokens <= 0:
            return
        engine = self._engines[seat.worker]
        if seat.num_tokens == 0:
            _drop_wanted(engine, seat.pages)
            for page in seat.pages:
                engine.num_wanted -= engine.wanted[page] > 0 and not engine.read[page]
                engine.read[page] += 1
        seat.num_tokens += num_tokens
        held = ceil((seat.num_prompt + seat.num_tokens) / engine.page_size)
        left = max(seat.most - held, 0)
        engine.left -= seat.left - left
        seat.left = left

    def leave(self, seat: Seat) -> None:
        """A call is over, or given up."""
        engine = self._engines[seat.worker]
        engine.seats.remove(seat)
        engine.left -= seat.left
        engine.load -= 1
        self._num_inside -= 1
        if seat.num_tokens == 0:
            _drop_wanted(engine, seat.pages)
            return
        for page in seat.pages:
            engine.read[page] -= 1
            if not engine.read[page]:
                del engine.read[page]
                engine.num_wanted += engine.wanted[page] > 0

    def _fits(self, seat: Seat, engine: _Engine) -> bool:
        if engine.available is None or not engine.seats:
            return True
        needed = engine.count_new(seat.pages) + seat.left
        return needed + engine.num_wanted + engine.left <= engine.available

    def _enter(self, seat: Seat, engine: _Engine) -> None:
        engine.num_wanted += engine.count_new(seat.pages)
        engine.wanted.update(seat.pages)
        engine.seats.add(seat)
        engine.left += seat.left
        engine.load += 1
        self._num_inside += 1


def _seat(worker: int, need: Need, page_size: int) -> Seat:
    num_prompt = len(need.token_ids)
    pages = page_hashes(need.token_ids, page_size)
    most = ceil((num_prompt + HELD_SHARE * need.output_tokens) / page_size)
    return Seat(
        worker=worker, pages=pages, num_prompt=num_prompt, most=most, left=most - len(pages)
    )


def _drop_wanted(engine: _Engine, pages: Sequence[int]) -> None:
    for page in pages:
        engine.wanted[page] -= 1
        if not engine.wanted[page]:
            del engine.wanted[page]
            engine.num_wanted -= not engine.read[page]
