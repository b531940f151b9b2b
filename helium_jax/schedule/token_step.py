"""The paper's cost model: what an order of calls costs, in token steps (paper section 5).

A call holds its unshared prompt and its growing answer in the KV cache for as many steps as it has
output tokens; that product, over the worker's capacity, is its usage. Calls of a worker follow each
other; a call that needs another one starts no earlier than that one's end plus its delay, one step
per output token, which rewards putting independent calls between the two.

A call is a number here: `operator * num_rows + row`, with the operator's place in the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from helium_jax.schedule.call_graph import CallGraph, CallNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What becomes of an order of calls.

    Attributes:
        starts: of every call, in token steps.
        ends: of every call, -1 for one that was done; calls that need it wait for its delay, too.
        makespan: the last end.
        prefill_tokens: prompt tokens that no call before on the same worker had.
    """

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    makespan: float
    prefill_tokens: float


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class TokenSteps:
    """The cost model for the calls of one graph on given workers.

    Attributes:
        graph: the calls; one that is expected `repeats` times a row costs that many times as much.
        capacities: KV tokens of each worker.
        scale: of all times; the paper's a is scale / capacity.
        done: calls that are over; they are in no order, and nobody waits for them.
    """

    graph: CallGraph
    capacities: tuple[float, ...]
    scale: float = 1.0
    done: frozenset[int] = frozenset()

    @property
    def effort(self) -> int:
        """The unit in which planning counts its effort."""
        return 1

    @property
    def num_calls(self) -> int:
        """How many calls there are: one per operator and row."""
        return len(self.graph.nodes) * self.graph.num_rows

    def split(self, call: int) -> tuple[CallNode, int]:
        """The operator and row of a call."""
        operator, row = divmod(call, self.graph.num_rows)
        return self.graph.nodes[operator], row

    @cached_property
    def needs(self) -> tuple[tuple[int, ...], ...]:
        """The calls that each call still waits for."""
        rows, place, done = self.graph.num_rows, self.graph.place, self.done
        return tuple(
            tuple(p * rows + row for p in places if p * rows + row not in done)
            for node in self.graph.nodes
            for places in [[place[need] for need in node.needs]]
            for row in range(rows)
        )

    @cached_property
    def calls(self) -> tuple[int, ...]:
        """The calls that are not done."""
        return tuple(call for call in range(self.num_calls) if call not in self.done)

    @cached_property
    def delays(self) -> tuple[float, ...]:
        """Per call, the steps between its end and the start of what needs it."""
        delays = [self.scale * node.output_tokens * node.repeats for node in self.graph.nodes]
        return tuple(delay for delay in delays for _ in range(self.graph.num_rows))

    @cached_property
    def _prompts(self) -> tuple[float, ...]:
        return tuple(node.prompt_tokens for node in self.graph.nodes)

    @cached_property
    def _costs(self) -> tuple[tuple[float, float], ...]:
        """Per operator, the cost of an unshared token and of its answer, for a capacity of 1."""
        return tuple(
            (
                self.scale * node.repeats * node.output_tokens,
                self.scale * node.repeats * node.output_tokens * (node.output_tokens + 1) / 2,
            )
            for node in self.graph.nodes
        )

    @cached_property
    def _pairs(self) -> "dict[int, _Common]":
        """Memo of `_common`, by the two operators' places in one number."""
        return {}

    @cached_property
    def _places(self) -> tuple[tuple[int, int], ...]:
        """The operator and row of every call."""
        rows = self.graph.num_rows
        return tuple((op, row) for op in range(len(self.graph.nodes)) for row in range(rows))

    def shared(self, previous: int, call: int) -> float:
        """Leading prompt tokens that two calls have in common."""
        rows = self.graph.num_rows
        (first, first_row), (second, second_row) = divmod(previous, rows), divmod(call, rows)
        common = self._pairs.get(first * len(self.graph.nodes) + second)
        if common is None:
            common = self._common_of(first, second)
        if first_row == second_row:
            return common.in_row
        return self._across_rows(common, first_row, second_row) if common.behind else common.in_all

    def _common_of(self, first: int, second: int) -> "_Common":
        common = _common(self.graph.nodes[first], self.graph.nodes[second])
        self._pairs[first * len(self.graph.nodes) + second] = common
        return common

    def _across_rows(self, common: "_Common", first_row: int, second_row: int) -> float:
        total = common.in_all
        for group, num_tokens in common.behind:
            if group:
                values = self.graph.values[group]
                if values[first_row] != values[second_row]:
                    break
            total += num_tokens
        return total

    def usage(self, worker: int, previous: int | None, call: int) -> float:
        """What `call` costs on `worker` directly after `previous`; None: it is the first there."""
        operator = call // self.graph.num_rows
        unshared = self._prompts[operator]
        if previous is not None:
            unshared -= self.shared(previous, call)
        per_token, decode = self._costs[operator]
        return (per_token * unshared + decode) / self.capacities[worker]

    def evaluate(self, orders: Sequence[Sequence[int]]) -> Timeline:
        """Times of all calls when every worker keeps its order.

        Args:
            orders: for each worker its calls; together every call once that is not done.

        Raises:
            ValueError: a call is missing or there twice, or the orders wait for each other.
        """
        count = self.num_calls
        num_open = len(self.calls)
        if tuple(sorted(chain.from_iterable(orders))) != self.calls:
            raise ValueError(f"the orders hold {orders!r}, not each of {num_open} calls once")
        prompts, costs, places = self._prompts, self._costs, self._places
        needs, delays, pairs = self.needs, self.delays, self._pairs
        width = len(self.graph.nodes)
        starts, ends = [0.0] * count, [-1.0] * count
        clocks = [0.0] * len(orders)
        nexts = [0] * len(orders)
        prefilled, num_done = 0.0, 0
        while num_done < num_open:
            before = num_done
            for worker, order in enumerate(orders):
                clock, place, capacity = clocks[worker], nexts[worker], self.capacities[worker]
                last, last_row = places[order[place - 1]] if place else (-1, -1)
                for call in order[place:] if place else order:
                    start = clock
                    for need in needs[call]:
                        end = ends[need]
                        if end < 0.0:
                            start = -1.0
                            break
                        end += delays[need]
                        if end > start:
                            start = end
                    if start < 0.0:
                        break
                    operator, row = places[call]
                    unshared = prompts[operator]
                    if last >= 0:  # as `shared`, written out: planning spends its time here
                        common = pairs.get(last * width + operator)
                        if common is None:
                            common = self._common_of(last, operator)
                        in_row, in_all, behind = common
                        if row == last_row:
                            unshared -= in_row
                        elif behind:
                            unshared -= self._across_rows(common, last_row, row)
                        else:
                            unshared -= in_all
                    per_token, decode = costs[operator]
                    starts[call] = start
                    ends[call] = clock = start + (per_token * unshared + decode) / capacity
                    prefilled += unshared
                    last, last_row = operator, row
                    place += 1
                num_done += place - nexts[worker]
                clocks[worker], nexts[worker] = clock, place
            if num_done == before:
                waiting = [
                    order[n] for order, n in zip(orders, nexts, strict=True) if n < len(order)
                ]
                raise ValueError(f"the orders never come to the calls that {waiting} wait for")
        return Timeline(
            starts=tuple(starts),
            ends=tuple(ends),
            makespan=max(0.0, *ends) if ends else 0.0,
            prefill_tokens=prefilled,
        )

    def earliest(self, call: int, clock: float, ends: Sequence[float]) -> float | None:
        """When `call` can start on a worker that is free at `clock`.

        `ends` has a negative number for calls without an end; None if one is needed.
        """
        start = clock
        for need in self.needs[call]:
            if ends[need] < 0.0:
                return None
            start = max(start, ends[need] + self.delays[need])
        return start


class _Common(NamedTuple):
    """What two operators may share.

    Attributes:
        in_row: tokens, for calls of one row.
        in_all: tokens that calls of any rows share.
        behind: after those, for calls of different rows: (column whose values must be equal, or
            "" for static text; tokens).
    """

    in_row: float
    in_all: float
    behind: tuple[tuple[str, float], ...]


def _common(first: CallNode, second: CallNode) -> _Common:
    in_row = in_all = 0.0
    behind: list[tuple[str, float]] = []
    is_open = True  # whether another row may have the same
    for a, b in zip(first.segments, second.segments, strict=False):
        if not a.key or a.key != b.key or a.is_static != b.is_static or a.group != b.group:
            break
        num_tokens = min(a.num_tokens, b.num_tokens)
        in_row += num_tokens
        is_open = is_open and (a.is_static or bool(a.group))
        if is_open and a.is_static and not behind:
            in_all += num_tokens
        elif is_open:
            behind.append(("" if a.is_static else a.group, num_tokens))
    return _Common(in_row=in_row, in_all=in_all, behind=tuple(behind))
