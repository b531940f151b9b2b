"""The order of a small batch, call by call: a beam over the beginnings of orders."""

from helium_jax.schedule.sequencing import Frontier, Prefix, Sequencing
from helium_jax.schedule.token_step import TokenSteps


def refine(steps: TokenSteps, max_prefixes: int) -> Prefix | None:
    """The best order of single calls that a beam finds; None without calls.

    All beginnings of one length are compared by their bounds; as many are kept as the budget
    allows for every length.
    """
    if not steps.calls:
        return None
    sequencing = Sequencing(steps=steps)
    frontier = Frontier(sequencing)
    beam = [sequencing.start()]
    left = max_prefixes
    for length in range(len(steps.calls)):
        longer: list[Prefix] = []
        floor = left * (1 - 1 / (len(steps.calls) - length))  # is for the lengths that follow
        for number, prefix in enumerate(beam):
            if number and left < floor:
                break
            children = list(sequencing.extend(prefix))
            left -= len(children)
            longer += [child for child in children if frontier.add(child)]
        beam = sorted(longer, key=lambda prefix: (prefix.bound, prefix.clock, prefix.calls))
    return beam[0]
