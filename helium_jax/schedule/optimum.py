"""The best order of one worker's calls in the token-step model, by branch and bound.

For harnesses and tests: the effort grows exponentially with the calls. What the schedule of a run
does instead is in `soft_schedule`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from helium_jax.schedule.sequencing import Frontier, Prefix, Sequencing
from helium_jax.schedule.token_step import TokenSteps

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The best order found.

    Attributes:
        order: of the calls.
        makespan: its cost in token steps.
        bound: no order costs less; equals makespan where that was proved.
        num_prefixes: beginnings of orders that were looked at.
    """

    order: tuple[int, ...]
    makespan: float
    bound: float
    num_prefixes: int

    @property
    def is_proved(self) -> bool:
        """Whether no order is better."""
        return self.bound >= self.makespan * (1 - _TOLERANCE)


def find_optimum(
    steps: TokenSteps, *, known: Sequence[int] = (), max_prefixes: int = 2_000_000
) -> Optimum:
    """Searches all orders, depth first, without those that cannot or need not be better.

    Args:
        steps: calls for one worker.
        known: a good order to start from, which makes the search shorter.
        max_prefixes: most beginnings to look at; beyond it the result may be unproved.

    Raises:
        ValueError: there are several workers.
    """
    if len(steps.capacities) != 1:
        raise ValueError(f"the optimum is for one worker, not for {len(steps.capacities)}")
    sequencing = Sequencing(steps=steps)
    frontier = Frontier(sequencing)
    best = tuple(known)
    makespan = steps.evaluate([best]).makespan if best or not steps.calls else float("inf")
    pending: list[Prefix] = [sequencing.start()]
    root_bound = pending[0].bound
    num_prefixes = 0
    while pending and num_prefixes < max_prefixes:
        prefix = pending.pop()
        if prefix.bound >= makespan * (1 - _TOLERANCE):
            continue
        if len(prefix.calls) == len(steps.calls):
            best, makespan = prefix.calls, prefix.clock
            continue
        longer = []
        for child in sequencing.extend(prefix):
            num_prefixes += 1
            if child.bound < makespan * (1 - _TOLERANCE) and frontier.add(child):
                longer.append(child)
        longer.sort(key=lambda child: (child.bound, child.clock), reverse=True)
        pending += longer
    open_bounds = [prefix.bound for prefix in pending]
    bound = max(root_bound, min([*open_bounds, makespan]))
    return Optimum(order=best, makespan=makespan, bound=bound, num_prefixes=num_prefixes)
