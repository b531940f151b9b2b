"""The cache-aware soft schedule (paper section 6): which call is wanted where, and when.

Candidates come from the walk over the prefix tree and from simple orders; a cost model chooses
among them and among their neighbours: the token-step model, which counts only unshared tokens and
has a clock per worker, or the roofline of an engine that was measured. Small batches are then
refined call by call. Everything is bounded by numbers of steps, not by time, and nothing is drawn:
equal graphs and equal rates give equal schedules.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice, zip_longest

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.neighbours import neighbours
from helium_jax.schedule.operator_order import Inner, find_branches, nest, order_operators
from helium_jax.schedule.order_cost import MakeCost, ModelName, OrderCost
from helium_jax.schedule.placement import Placement, group_rows, placements, workers_of
from helium_jax.schedule.refinement import refine
from helium_jax.schedule.token_step import TokenSteps

_TOLERANCE = 1e-9
_RUN = 2  # sampled rows that follow each other, where that makes a difference


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningEffort:
    """How much planning may do; the defaults keep 176 operators under 200 ms.

    Attributes:
        sampled_rows: rows on which orders of operators are compared, per worker.
        evaluated_calls: calls whose times are worked out while orders are compared, in token
            steps; other models cost a multiple of that.
        evaluated_per_call: the same for each call of the batch, so that planning stays a small part
            of a short run.
        predicted_calls: largest batch, in calls, whose makespan is worked out with all its rows.
        refined_calls: largest batch, in calls, that is refined call by call.
        refined_prefixes: beginnings of orders looked at while refining.
    """

    sampled_rows: int = 4
    evaluated_calls: int = 15_000
    evaluated_per_call: int = 96
    predicted_calls: int = 5_000
    refined_calls: int = 32
    refined_prefixes: int = 1_000


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class SoftSchedule:
    """An order that workers keep as well as they can; its size does not grow with calls.

    Attributes:
        graph: what was planned.
        sequences: operators in nested sequences: inner ones run row by row, one after the other.
        placement: per operator, per row, the worker.
        rows: in their order within every inner sequence.
        refined: (operator, row) of every call of a small batch in an order of its own, which then
            counts instead of the sequences.
        makespan: predicted, in token steps or seconds.
        num_evaluated: calls whose times were worked out to find it, as `PlanningEffort` counts.
        model: which cost model chose it.
    """

    graph: CallGraph
    sequences: tuple[Inner, ...]
    placement: Placement
    rows: tuple[int, ...]
    refined: tuple[tuple[str, int], ...] | None
    makespan: float
    num_evaluated: int
    model: ModelName = "token_step"

    @cached_property
    def _spots(self) -> Mapping[str, tuple[int, int, int]]:
        """Per operator: ranks before its inner sequence, operators in that, its place there."""
        spots: dict[str, tuple[int, int, int]] = {}
        for inner in self.sequences:
            before = len(spots) * len(self.rows)
            spots |= {name: (before, len(inner), place) for place, name in enumerate(inner)}
        return spots

    @cached_property
    def _row_places(self) -> Mapping[int, int]:
        return {row: place for place, row in enumerate(self.rows)}

    @cached_property
    def _refined_places(self) -> Mapping[tuple[str, int], int]:
        return {call: place for place, call in enumerate(self.refined or ())}

    def rank(self, operator: str, row: int) -> int:
        """The place of a call in the order of all workers; -1, so at once, for unknown ones."""
        if self.refined is not None:
            return self._refined_places.get((operator, row), -1)
        spot, place = self._spots.get(operator), self._row_places.get(row)
        if spot is None or place is None:
            return -1
        before, size, within = spot
        return before + place * size + within

    def worker(self, operator: str, row: int) -> int | None:
        """Where a call is planned, as an index of the capacities; None for unknown ones."""
        if operator not in self.graph.place or row not in self._row_places:
            return None
        return self.placement[self.graph.place[operator]][row]

    def sequences_on(self, worker: int) -> tuple[Inner, ...]:
        """The nested sequences of one worker: the operators of which it has any row."""
        has = {
            node.name
            for node, workers in zip(self.graph.nodes, self.placement, strict=True)
            if worker in workers
        }
        kept = (tuple(name for name in inner if name in has) for inner in self.sequences)
        return tuple(inner for inner in kept if inner)

    def order(self, worker: int) -> Iterator[tuple[str, int]]:
        """The calls (operator, row) of one worker in their order, those that are done too."""
        if self.refined is not None:
            yield from (call for call in self.refined if self.worker(*call) == worker)
            return
        for inner in self.sequences:
            for row in self.rows:
                yield from ((name, row) for name in inner if self.worker(name, row) == worker)

    def text(self) -> str:
        """The schedule for EXPLAIN: per worker its sequences, one a line; or its calls."""
        unit = "token steps" if self.model == "token_step" else "seconds"
        lines = [f"predicted: {self.makespan:.6g} {unit}"]
        workers = sorted({worker for placed in self.placement for worker in placed})
        for worker in workers:
            if self.refined is not None:
                calls = " ".join(f"{name}[{row}]" for name, row in self.order(worker))
                lines += [f"worker {worker}, call by call:", f"  {calls}"]
                continue
            lines.append(f"worker {worker}, every line row by row:")
            lines += ["  " + ", ".join(inner) for inner in self.sequences_on(worker)]
        return "\n".join(lines)


def plan_schedule(
    graph: CallGraph,
    capacities: Sequence[float],
    *,
    done: Iterable[tuple[str, int]] = (),
    effort: PlanningEffort = PlanningEffort(),
    roofline: MakeCost | None = None,
) -> SoftSchedule:
    """The best soft schedule found.

    Args:
        graph: the calls.
        capacities: KV tokens of each worker.
        done: calls that are over; they are in no order and nobody waits for them.
        effort: bounds of the search.
        roofline: the cost model that chooses; None: token steps.
    """
    place, rows = graph.place, graph.num_rows
    over = frozenset(place[name] * rows + row for name, row in done)
    steps = TokenSteps(graph=graph, capacities=tuple(capacities), done=over)
    search = _Search(steps, effort, roofline)
    cost, plan = search.find()
    refined = None
    model = steps if roofline is None else roofline(graph, over, 1.0)
    if len(steps.calls) * model.effort <= effort.predicted_calls:  # else the sample's time will do
        cost = model.evaluate(search.calls_of(plan, steps, range(rows))).makespan
    if len(steps.calls) <= effort.refined_calls and len(capacities) == 1:
        found = refine(steps, effort.refined_prefixes)
        clock = model.evaluate([found.calls]).makespan if found is not None else cost
        if found is not None and clock < cost * (1 - _TOLERANCE):
            named = ((steps.split(call)[0].name, call % rows) for call in found.calls)
            cost, refined = clock, tuple(named)
    return SoftSchedule(
        graph=graph,
        sequences=plan.inners,
        placement=plan.placement,
        rows=tuple(search.ordered),
        refined=refined,
        makespan=cost,
        num_evaluated=search.num_evaluated,
        model="token_step" if roofline is None else "roofline",
    )


def reschedule(
    graph: CallGraph,
    capacities: Sequence[float],
    *,
    done: Iterable[tuple[str, int]],
    observed: Mapping[str, float],
    effort: PlanningEffort = PlanningEffort(),
    roofline: MakeCost | None = None,
) -> SoftSchedule:
    """Plans what is left of a run with what was learnt.

    Args:
        graph: as it was planned at first.
        capacities: KV tokens of each worker that is left.
        done: calls (operator, row) that are over.
        observed: by operator, output tokens to expect from now on; prompts that quote its answer
            change with it.
        effort: bounds of the search.
        roofline: as for `plan_schedule`.
    """

    def corrected(name: str, num_tokens: float) -> float:
        return observed.get(name, num_tokens)

    nodes = tuple(
        replace(
            node,
            output_tokens=corrected(node.name, node.output_tokens),
            segments=tuple(
                s if s.is_static else replace(s, num_tokens=corrected(s.key, s.num_tokens))
                for s in node.segments
            ),
        )
        for node in graph.nodes
    )
    graph = replace(graph, nodes=nodes)
    return plan_schedule(graph, capacities, done=done, effort=effort, roofline=roofline)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Inner sequences in one order for all workers, and who has which calls."""

    inners: tuple[Inner, ...]
    placement: Placement


class _Search:
    """Compares plans on a sample of the rows until its evaluations are spent."""

    def __init__(
        self, steps: TokenSteps, effort: PlanningEffort, roofline: MakeCost | None
    ) -> None:
        self._steps = steps
        self._effort = effort
        most = effort.evaluated_per_call * len(steps.calls)
        self._most = min(effort.evaluated_calls, most)
        self.ordered = group_rows(steps)
        self._rows = self._sample_rows()
        self._sample, weight = self._sampled()
        self._model: OrderCost = self._sample
        if roofline is not None:
            self._model = roofline(self._sample.graph, self._sample.done, weight)
        self._branches = find_branches(steps.graph)
        self.num_evaluated = 0

    def find(self) -> tuple[float, _Plan]:
        """The best plan and what the cost model says of it on the sample."""
        by_placement = [
            [_Plan(inners=inners, placement=placement) for inners in self._candidates(placement)]
            for placement in placements(self._steps)
        ]
        best: tuple[float, _Plan] | None = None
        # The first of every placement is always looked at, the others as far as they may.
        for number, plans in enumerate(zip_longest(*by_placement)):
            for plan in plans:
                if plan is None or (number and self._is_spent):
                    continue
                cost = self._cost(plan)
                if best is None or cost < best[0] * (1 - _TOLERANCE):
                    best = cost, plan
        assert best is not None
        return self._improve(*best)

    @property
    def _is_spent(self) -> bool:
        return self.num_evaluated + self._expense > self._most

    @property
    def _expense(self) -> int:
        return len(self._sample.calls) * self._model.effort

    def calls_of(self, plan: _Plan, steps: TokenSteps, rows: Sequence[int]) -> list[list[int]]:
        """Per worker its calls among `rows` of the whole batch, numbered as in `steps`."""
        number = {row: index for index, row in enumerate(rows)}
        ordered = [(row, number[row]) for row in self.ordered if row in number]
        place, count = self._steps.graph.place, len(number)
        inners = [[(place[name], place[name] * count) for name in one] for one in plan.inners]
        if len(steps.capacities) == 1 and not steps.done:  # the same, in a fraction of the time
            return [[base + n for inner in inners for _, n in ordered for _, base in inner]]
        orders: list[list[int]] = [[] for _ in steps.capacities]
        for inner in inners:
            for row, index in ordered:
                for operator, base in inner:
                    if base + index not in steps.done:
                        orders[plan.placement[operator][row]].append(base + index)
        return orders

    def _sample_rows(self) -> list[int]:
        """Rows from all over those with open calls; neighbours, where neighbours are alike."""
        graph = self._steps.graph
        num_done = Counter(call % graph.num_rows for call in self._steps.done)
        rows = [row for row in self.ordered if num_done[row] < len(graph.nodes)]
        run = _RUN if graph.values else 1
        wanted = max(1, self._effort.sampled_rows * len(self._steps.capacities) // run)
        stride = run * max(1, -(-len(rows) // (wanted * run)))
        starts = range(0, len(rows), stride)
        return sorted(row for start in starts for row in rows[start : start + run])

    def _sampled(self) -> tuple[TokenSteps, float]:
        """Token steps of the sample, and how many rows a sampled one stands for; it is as much
        work as these."""
        graph, rows = self._steps.graph, self._rows
        values = {name: tuple(v[row] for row in rows) for name, v in graph.values.items()}
        done = {
            place * len(rows) + index
            for place in range(len(graph.nodes))
            for index, row in enumerate(rows)
            if place * graph.num_rows + row in self._steps.done
        }
        num_sampled = len(graph.nodes) * len(rows) - len(done)
        share = num_sampled / max(len(self._steps.calls), 1)
        sample = TokenSteps(
            graph=replace(graph, num_rows=len(rows), values=values),
            capacities=tuple(capacity * share for capacity in self._steps.capacities),
            done=frozenset(done),
        )
        return sample, 1.0 / share if share else 1.0

    def _candidates(self, placement: Placement) -> Iterator[tuple[Inner, ...]]:
        graph = self._steps.graph
        walked = order_operators(self._steps, workers_of(placement), self._branches)
        by_depth = _by_depth(graph)
        found = [
            nest(graph, walked, with_dependents=False),
            nest(graph, walked, with_dependents=True),
            tuple((name,) for name in walked),
            nest(graph, by_depth, with_dependents=False),
            tuple((name,) for name in by_depth),
            _by_level(graph, by_depth),
            (tuple(walked),),
        ]
        return iter(dict.fromkeys(found))

    def _cost(self, plan: _Plan) -> float:
        orders = self.calls_of(plan, self._sample, self._rows)
        self.num_evaluated += self._expense
        return self._model.evaluate(orders).makespan

    def _improve(self, cost: float, plan: _Plan) -> tuple[float, _Plan]:
        """Local search over sequences of operators: split, join and move, while it helps."""
        first, improved = 0, True
        while improved:
            improved = False
            # Goes on where it was: what was tried before is mostly no better now.
            ahead = islice(neighbours(plan.inners, self._steps.graph), first, None)
            behind = islice(neighbours(plan.inners, self._steps.graph), first)
            for place, inners in enumerate(chain(ahead, behind), first):
                if self._is_spent:
                    return cost, plan
                other = replace(plan, inners=inners)
                other_cost = self._cost(other)
                if other_cost < cost * (1 - _TOLERANCE):
                    first, cost, plan, improved = place, other_cost, other, True
                    break
        return cost, plan


def _by_depth(graph: CallGraph) -> list[str]:
    """Operators by the longest chain of calls before them, the graph's order within."""
    depth: dict[str, int] = {}
    for node in graph.nodes:
        depth[node.name] = 1 + max((depth[need] for need in node.needs), default=0)
    return sorted(depth, key=lambda name: (depth[name], graph.place[name]))


def _by_level(graph: CallGraph, by_depth: Sequence[str]) -> tuple[Inner, ...]:
    """Inner sequences of operators that do not need each other, whatever their text."""
    inners: list[list[str]] = [[]]
    for name in by_depth:
        if any(need in inners[-1] for need in graph.by_name[name].needs):
            inners.append([])
        inners[-1].append(name)
    return tuple(map(tuple, inners))
