"""Partial orders of one worker's calls in the token-step model: steps, bounds and dominance.

What the exact search and the bounded one have in common. A partial order is told by the calls it
holds, the last of them, and the times from which the others can start.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from helium_jax.schedule.token_step import TokenSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The beginning of an order.

    Attributes:
        calls: in their order.
        placed: the same as bits.
        clock: when the last one ends.
        heads: for every call the earliest start that is known for it.
        bound: no order that begins like this ends before.
    """

    calls: tuple[int, ...]
    placed: int
    clock: float
    heads: tuple[float, ...]
    bound: float


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class Sequencing:
    """Orders of calls on one worker.

    Attributes:
        steps: the cost model.
        worker: whose capacity counts.
    """

    steps: TokenSteps
    worker: int = 0

    @cached_property
    def usages(self) -> tuple[tuple[float, ...], ...]:
        """Per call, its usage after every other one; the last number is for the first place."""
        usage = self.steps.usage
        count = self.steps.num_calls
        return tuple(
            tuple(
                usage(self.worker, None if previous in (call, count) else previous, call)
                for previous in range(count + 1)
            )
            for call in range(count)
        )

    @cached_property
    def least(self) -> tuple[float, ...]:
        """Per call, the least it can cost."""
        return tuple(min(usages) for usages in self.usages)

    @cached_property
    def tails(self) -> tuple[float, ...]:
        """Per call, the least time between its end and the end of all that waits for it."""
        tails = [0.0] * self.steps.num_calls
        for call in reversed(range(self.steps.num_calls)):  # needs come before in the graph
            for need in self.steps.needs[call]:
                tail = self.steps.delays[need] + self.least[call] + tails[call]
                tails[need] = max(tails[need], tail)
        return tuple(tails)

    @cached_property
    def _twins(self) -> tuple[int | None, ...]:
        """Per row, the row before that is like it in every respect, if there is one.

        Twins are interchangeable, so only orders that begin them in turn need to be looked at.
        """
        graph, done = self.steps.graph, self.steps.done
        last: dict[tuple[object, ...], int] = {}
        twins: list[int | None] = []
        for row in range(graph.num_rows):
            values = (numbers[row] for numbers in graph.values.values())
            over = (place * graph.num_rows + row in done for place in range(len(graph.nodes)))
            kind = (*values, None, *over)
            twins.append(last.get(kind))
            last[kind] = row
        return tuple(twins)

    @cached_property
    def _row_bits(self) -> tuple[int, ...]:
        rows = self.steps.graph.num_rows
        return tuple(
            sum(1 << call for call in range(row, self.steps.num_calls, rows)) for row in range(rows)
        )

    def start(self) -> Prefix:
        """The empty order; calls that are done count as placed."""
        placed = sum(1 << call for call in self.steps.done)
        heads = [0.0] * self.steps.num_calls
        self._raise_heads(heads, placed)
        return Prefix(
            calls=(),
            placed=placed,
            clock=0.0,
            heads=tuple(heads),
            bound=self._bound(heads, placed, 0.0),
        )

    def extend(self, prefix: Prefix) -> Iterator[Prefix]:
        """All longer orders by one call, but for those that only exchange twins."""
        rows, done = self.steps.graph.num_rows, sum(1 << call for call in self.steps.done)
        for call in self.steps.calls:
            if prefix.placed >> call & 1:
                continue
            if any(not prefix.placed >> need & 1 for need in self.steps.needs[call]):
                continue
            row = call % rows
            twin = self._twins[row]
            if twin is not None and not (prefix.placed & ~done) & self._row_bits[row]:  # noqa: SIM102
                if not (prefix.placed & ~done) & self._row_bits[twin]:
                    continue
            yield self.append(prefix, call)

    def append(self, prefix: Prefix, call: int) -> Prefix:
        """The order with `call` at its end; what it needs must be there."""
        usages = self.usages[call]
        start = max(prefix.clock, prefix.heads[call])
        clock = start + (usages[prefix.calls[-1]] if prefix.calls else usages[-1])
        heads = list(prefix.heads)
        heads[call] = start
        placed = prefix.placed | 1 << call
        self._raise_heads(heads, placed, call, clock)
        return Prefix(
            calls=(*prefix.calls, call),
            placed=placed,
            clock=clock,
            heads=tuple(heads),
            bound=max(self._bound(heads, placed, clock), clock + self.tails[call]),
        )

    def _raise_heads(
        self, heads: list[float], placed: int, ended: int = -1, clock: float = 0.0
    ) -> None:
        """Moves calls not placed behind the calls they need."""
        for call in self.steps.calls:
            if placed >> call & 1:
                continue
            for need in self.steps.needs[call]:
                if need == ended:
                    head = clock + self.steps.delays[need]
                elif not placed >> need & 1:
                    head = max(heads[need], clock) + self.least[need] + self.steps.delays[need]
                else:
                    continue
                heads[call] = max(heads[call], head)

    def _bound(self, heads: list[float], placed: int, clock: float) -> float:
        """The end of the best schedule that may interrupt calls: Jackson's preemptive bound.

        Calls cost their least; always runs whoever has the longest tail among those that can.
        """
        coming = sorted(
            (max(heads[call], clock), call) for call in self.steps.calls if not placed >> call & 1
        )
        ready: list[tuple[float, float]] = []  # (-tail, cost left)
        end, now, place = clock, clock, 0
        while ready or place < len(coming):
            if not ready:
                now = max(now, coming[place][0])
            while place < len(coming) and coming[place][0] <= now:
                call = coming[place][1]
                heapq.heappush(ready, (-self.tails[call], self.least[call]))
                place += 1
            tail, left = heapq.heappop(ready)
            next_head = coming[place][0] if place < len(coming) else float("inf")
            if now + left > next_head:
                heapq.heappush(ready, (tail, left - (next_head - now)))
                now = next_head
            else:
                now += left
                end = max(end, now - tail)
        return end


class Frontier:
    """The best known beginnings, by the calls they hold and the last of them."""

    def __init__(self, sequencing: Sequencing) -> None:
        self._calls = sequencing.steps.calls
        self._known: dict[tuple[int, int], list[tuple[float, ...]]] = {}

    def add(self, prefix: Prefix) -> bool:
        """Keeps a beginning unless another one is as good in every respect; whether it did."""
        times = (
            prefix.clock,
            *(
                max(prefix.heads[call], prefix.clock)
                for call in self._calls
                if not prefix.placed >> call & 1
            ),
        )
        known = self._known.setdefault((prefix.placed, prefix.calls[-1]), [])
        if any(all(a <= b for a, b in zip(old, times, strict=True)) for old in known):
            return False
        known[:] = [
            old for old in known if not all(a <= b for a, b in zip(times, old, strict=True))
        ]
        known.append(times)
        return True
