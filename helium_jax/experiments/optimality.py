"""How far schedules are from the best one, in the paper's token-step model (paper section 8).

Every policy orders the calls of a graph for one worker; branch and bound proves the best order, and
a mixed-integer program can prove it again. `nested` is our schedule without its refinement call by
call, which only small batches get.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

from helium_jax.schedule import CallGraph
from helium_jax.schedule.optimum import find_optimum
from helium_jax.schedule.optimum_milp import find_optimum_milp
from helium_jax.schedule.soft_schedule import PlanningEffort, plan_schedule
from helium_jax.schedule.token_step import TokenSteps

Order = list[int]
Policy = Callable[[TokenSteps, random.Random], Order]

CAPACITY = 8192.0  # KV tokens, as in the paper


def ours(steps: TokenSteps, rng: random.Random) -> Order:
    """The soft schedule."""
    return _planned(steps, PlanningEffort())


def nested(steps: TokenSteps, rng: random.Random) -> Order:
    """The soft schedule without refinement: nested sequences of operators only."""
    return _planned(steps, PlanningEffort(refined_calls=0))


def _planned(steps: TokenSteps, effort: PlanningEffort) -> Order:
    schedule = plan_schedule(steps.graph, steps.capacities, effort=effort)
    rows, place = steps.graph.num_rows, steps.graph.place
    return [place[name] * rows + row for name, row in schedule.order(0)]


def query_wise(steps: TokenSteps, rng: random.Random) -> Order:
    """Rows one after the other."""
    rows = steps.graph.num_rows
    return sorted(steps.calls, key=lambda call: (call % rows, call))


def op_wise(steps: TokenSteps, rng: random.Random) -> Order:
    """Operators one after the other."""
    return list(steps.calls)


def shuffled(steps: TokenSteps, rng: random.Random) -> Order:
    """Any call that can start at once, at random."""
    return _online(steps, lambda previous, call: rng.random())


def longest_prefix(steps: TokenSteps, rng: random.Random) -> Order:
    """Of the calls that can start at once the one that shares most with the call before."""
    return _online(steps, lambda p, call: 0.0 if p is None else -steps.shared(p, call))


def _online(steps: TokenSteps, key: Callable[[int | None, int], float]) -> Order:
    """Takes the call with the least key among those that can start, else the first that can."""
    order: Order = []
    ends = [-1.0] * steps.num_calls
    clock = 0.0
    while len(order) < len(steps.calls):
        previous = order[-1] if order else None
        starts = {
            call: start
            for call in steps.calls
            if ends[call] < 0.0 and (start := steps.earliest(call, clock, ends)) is not None
        }
        first = min(starts.values())
        now = [call for call in starts if starts[call] <= max(first, clock)]
        call = min(now, key=lambda call: (key(previous, call), call))
        clock = ends[call] = starts[call] + steps.usage(0, previous, call)
        order.append(call)
    return order


POLICIES: Mapping[str, Policy] = {
    "ours": ours,
    "nested": nested,
    "query-wise": query_wise,
    "op-wise": op_wise,
    "random": shuffled,
    "lspf": longest_prefix,
}


def gaps(graph: CallGraph, rng: random.Random) -> dict[str, float]:
    """Per policy, by how many percent its schedule is longer than the best one.

    Raises:
        RuntimeError: the best schedule was not proved to be that.
    """
    steps = TokenSteps(graph=graph, capacities=(CAPACITY,))
    makespans = {
        name: steps.evaluate([policy(steps, rng)]).makespan for name, policy in POLICIES.items()
    }
    optimum = find_optimum(steps, known=ours(steps, rng))
    if not optimum.is_proved:
        raise RuntimeError(f"no proof in {optimum.num_prefixes} steps for {graph!r}")
    return {name: 100 * (m / optimum.makespan - 1) for name, m in makespans.items()}


def program_difference(graph: CallGraph) -> float:
    """By how many percent HiGHS and branch and bound differ about the best makespan."""
    steps = TokenSteps(graph=graph, capacities=(CAPACITY,))
    searched = find_optimum(steps)
    solved = find_optimum_milp(steps, known=list(searched.order))
    return 100 * abs(solved.makespan / searched.makespan - 1) if solved.is_proved else float("inf")


def summary(measured: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """Mean and greatest gap of a policy."""
    values = [gaps[name] for gaps in measured]
    return {
        "mean_gap_percent": statistics.fmean(values),
        "max_gap_percent": max(values),
        "num_cases": len(values),
    }
