"""The best order of one worker's calls as a mixed-integer program, solved by scipy's HiGHS.

A second way to the same number as `optimum`. Imports scipy, so nothing that runs plans imports it.
"""

from importlib import import_module
from typing import Any

from helium_jax.schedule.optimum import Optimum
from helium_jax.schedule.sequencing import Sequencing
from helium_jax.schedule.token_step import TokenSteps

# By name: a type checker would read scipy's sources, the longest part of checking everything.
optimize: Any = import_module("scipy.optimize")
sparse: Any = import_module("scipy.sparse")


def find_optimum_milp(steps: TokenSteps, *, known: list[int], timeout_s: float = 60.0) -> Optimum:
    """Solves for who follows whom.

    Args:
        steps: calls for one worker.
        known: any order; the program needs an upper bound.
        timeout_s: most seconds; after them the result may be unproved.

    Raises:
        ValueError: there are several workers.
    """
    if len(steps.capacities) != 1:
        raise ValueError(f"the optimum is for one worker, not for {len(steps.capacities)}")
    if len(steps.calls) < 2:
        makespan = steps.evaluate([known]).makespan
        return Optimum(order=tuple(known), makespan=makespan, bound=makespan, num_prefixes=0)
    program = _Program(steps, steps.evaluate([known]).makespan)
    result = program.solve(timeout_s)
    order = known if result.x is None else program.order(result.x)
    makespan = steps.evaluate([order]).makespan
    bound = makespan if result.status == 0 else max(0.0, float(result.mip_dual_bound or 0.0))
    return Optimum(
        order=tuple(order),
        makespan=makespan,
        bound=bound,
        num_prefixes=int(result.mip_node_count or 0),
    )


class _Program:
    """Variables: x[i, j] = 1 where j directly follows i (the source first), then starts, makespan.

    Constraints: everyone has one predecessor and at most one successor; starts follow ends of
    predecessors (where x is 1) and ends plus delays of needs (always); nothing ends after the
    makespan.
    """

    def __init__(self, steps: TokenSteps, upper: float) -> None:
        self._steps = steps
        sequencing = Sequencing(steps=steps)
        self._calls = steps.calls
        source = steps.num_calls
        self._arcs = [
            (i, j)
            for j in self._calls
            for i in (*self._calls, source)
            if i != j and (i == source or j not in steps.needs[i])
        ]
        self._arc = {arc: place for place, arc in enumerate(self._arcs)}
        self._start = {call: len(self._arcs) + place for place, call in enumerate(self._calls)}
        self._makespan = len(self._arcs) + len(self._calls)
        self._rows: list[tuple[dict[int, float], float, float]] = []
        heads = sequencing.start().heads
        self._lower = [0.0] * len(self._arcs) + [heads[call] for call in self._calls]
        self._lower += [sequencing.start().bound]
        self._upper = [1.0] * len(self._arcs)
        self._upper += [upper - sequencing.tails[c] - sequencing.least[c] for c in self._calls]
        self._upper += [upper]
        infinity = float("inf")

        def cost(call: int, factor: float) -> dict[int, float]:
            """The call's usage, as a sum over who may come before it."""
            into = [arc for arc in self._arcs if arc[1] == call]
            return {self._arc[arc]: factor * sequencing.usages[call][arc[0]] for arc in into}

        for call in self._calls:
            into = {self._arc[arc]: 1.0 for arc in self._arcs if arc[1] == call}
            out = {self._arc[arc]: 1.0 for arc in self._arcs if arc[0] == call}
            self._rows.append((into, 1.0, 1.0))
            self._rows.append((out, 0.0, 1.0))
            end = {self._start[call]: -1.0, **cost(call, -1.0)}
            tail = sequencing.tails[call]
            self._rows.append(({self._makespan: 1.0, **end}, tail, infinity))
            for need in steps.needs[call]:
                row = {self._start[call]: 1.0, self._start[need]: -1.0, **cost(need, -1.0)}
                self._rows.append((row, steps.delays[need], infinity))
        first = {self._arc[arc]: 1.0 for arc in self._arcs if arc[0] == source}
        self._rows.append((first, 1.0, 1.0))
        for (i, j), place in self._arc.items():
            if i == source:
                continue
            # start_j >= start_i + usage_i, unless j does not follow i
            row = {self._start[j]: 1.0, self._start[i]: -1.0, **cost(i, -1.0)}
            row[place] = row.get(place, 0.0) - upper
            self._rows.append((row, -upper, infinity))

    def solve(self, timeout_s: float) -> Any:
        """What scipy says."""
        places = [(r, c, v) for r, (row, _, _) in enumerate(self._rows) for c, v in row.items()]
        rows, columns, values = zip(*places, strict=True)
        shape = (len(self._rows), self._makespan + 1)
        matrix = sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()
        lows, highs = [low for _, low, _ in self._rows], [high for *_, high in self._rows]
        return optimize.milp(
            [0.0] * self._makespan + [1.0],
            constraints=optimize.LinearConstraint(matrix, lows, highs),
            integrality=[1] * len(self._arcs) + [0] * (len(self._calls) + 1),
            bounds=optimize.Bounds(self._lower, self._upper),
            options={"time_limit": timeout_s, "mip_rel_gap": 1e-9},
        )

    def order(self, solution: Any) -> list[int]:
        """The calls in the order of the arcs that were chosen."""
        follows = {i: j for (i, j), p in self._arc.items() if solution[p] > 0.5}
        order = []
        call = follows.get(self._steps.num_calls)
        while call is not None:
            order.append(call)
            call = follows.get(call)
        return order
