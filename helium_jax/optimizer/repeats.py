"""How often each call is expected to be made: fewer times than rows, or more often in loops."""

from collections.abc import Iterator, Mapping

from helium_jax.optimizer.driver import Optimized
from helium_jax.optimizer.facts import Facts
from helium_jax.plan import Branch, Chat, Completion, Loop, Map, Op, Param, Plan, bodies

# Without a profile: a while ends soon, a list is short, a condition holds every other time.
USUAL_ITERATIONS = 2
USUAL_ITEMS = 4
USUAL_SHARE = 0.5


def estimate_repeats(optimized: Optimized, facts: Facts) -> dict[str, float]:
    """Expected calls per row that reach the engine, for every calling operator, bodies included.

    What earlier runs have shown comes first. Else, outside bodies: one per row, less the rows that
    the output cache serves and those whose value another row has. In bodies: as often as loops,
    lists and conditions usually say.
    """
    return {
        op.name: _estimate(op, usual, optimized, facts)
        for op, usual in _walk(optimized.plan, optimized.plan.ops, 1.0)
    }


def _estimate(op: Op, usual: float, optimized: Optimized, facts: Facts) -> float:
    num_rows = facts.num_rows
    if num_rows and any(op is other for other in optimized.plan.ops):
        known = optimized.known_rows.get(op.name, frozenset())
        alike = optimized.grouping.values.get(op.name, range(num_rows))
        return len({alike[row] for row in range(num_rows) if row not in known}) / num_rows
    if facts.profile.has_seen(op.name):
        return facts.profile.estimate_repeats(op.name)
    return usual


def _walk(plan: Plan, ops: tuple[Op, ...], times: float) -> Iterator[tuple[Op, float]]:
    """Every calling operator with how often it usually runs for a row."""
    params = {param.name: param for param in plan.params}
    for op in ops:
        if isinstance(op, Chat | Completion):
            yield op, times
        for body in bodies(op):
            yield from _walk(plan, body.ops, times * _times(op, params))


def _times(op: Op, params: Mapping[str, Param]) -> float:
    """How often a body of `op` runs."""
    match op:
        case Loop(count=int() as count):
            return float(count)
        case Loop(count=str() as name) if isinstance(value := params[name].default, int):
            return float(value)
        case Loop(max_iterations=most):
            return float(min(USUAL_ITERATIONS, most))
        case Map(max_items=most):
            return float(min(USUAL_ITEMS, most))
        case Branch():
            return USUAL_SHARE
        case _:
            return 1.0  # every arm of a race begins
