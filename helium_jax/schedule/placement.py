"""Which worker gets which calls: candidates, by rows, by prefix groups, and by both.

Calls of one row share its values, calls of one prefix group its static text. What is better to
keep together is for the cost model to say.
"""

from collections import defaultdict
from collections.abc import Sequence

from helium_jax.schedule.operator_order import role_of
from helium_jax.schedule.token_step import TokenSteps

# Per operator of the graph, per row: the worker.
Placement = tuple[tuple[int, ...], ...]

_HEAVY = 0.5  # of a worker's fair share: a prefix group with more is replicated on all workers


def placements(steps: TokenSteps) -> list[Placement]:
    """Different ways to spread the calls over the workers; one if there is one worker."""
    graph = steps.graph
    num_workers = len(steps.capacities)
    by_rows = _split_rows(steps)
    if num_workers == 1 or not graph.nodes:
        return [tuple(by_rows for _ in graph.nodes)]
    groups: dict[object, list[int]] = defaultdict(list)
    for place, node in enumerate(graph.nodes):
        keys = role_of(graph, node.name)
        groups[keys[0] if keys else place].append(place)
    loads = {key: sum(_work(steps, place) for place in group) for key, group in groups.items()}
    share = sum(loads.values()) / num_workers
    heavy = {key for key, load in loads.items() if load > _HEAVY * share}
    found = [
        tuple(by_rows for _ in graph.nodes),
        _spread(steps, groups, loads, by_rows, set()),
        _spread(steps, groups, loads, by_rows, heavy),
    ]
    return list(dict.fromkeys(found))


def group_rows(steps: TokenSteps) -> list[int]:
    """All rows, those with equal values of grouped columns together, the longest column first."""
    graph = steps.graph
    tokens: dict[str, float] = defaultdict(float)
    for node in graph.nodes:
        for segment in node.segments:
            if segment.group:
                tokens[segment.group] += segment.num_tokens
    columns = sorted(tokens, key=lambda name: (-tokens[name], name))
    rows = range(graph.num_rows)
    return sorted(rows, key=lambda row: (*(graph.values[name][row] for name in columns), row))


def _split_rows(steps: TokenSteps) -> tuple[int, ...]:
    """Per row its worker: ranges of the grouped rows, in proportion to capacities."""
    ordered = group_rows(steps)
    total = sum(steps.capacities)
    bounds: list[float] = []
    for capacity in steps.capacities:
        bounds.append((bounds[-1] if bounds else 0.0) + capacity / total * len(ordered))
    workers = [0] * len(ordered)
    for position, row in enumerate(ordered):
        workers[row] = next(
            (worker for worker, bound in enumerate(bounds) if position + 0.5 <= bound),
            len(bounds) - 1,
        )
    return tuple(workers)


def _spread(
    steps: TokenSteps,
    groups: dict[object, list[int]],
    loads: dict[object, float],
    by_rows: tuple[int, ...],
    replicated: set[object],
) -> Placement:
    """Whole groups on the worker with the least load, the heaviest first; some by rows."""
    filled = [0.0] * len(steps.capacities)
    workers: list[tuple[int, ...]] = [by_rows] * len(steps.graph.nodes)
    for key in sorted(groups, key=lambda key: (-loads[key], groups[key][0])):
        if key in replicated:
            continue
        worker = min(
            range(len(filled)), key=lambda w: ((filled[w] + loads[key]) / steps.capacities[w], w)
        )
        filled[worker] += loads[key]
        for place in groups[key]:
            workers[place] = (worker,) * steps.graph.num_rows
    return tuple(workers)


def _work(steps: TokenSteps, place: int) -> float:
    node = steps.graph.nodes[place]
    tokens = node.output_tokens
    return node.repeats * (tokens * node.prompt_tokens + tokens * (tokens + 1) / 2)


def workers_of(placement: Placement) -> Sequence[tuple[int, ...]]:
    """Per operator the workers that have some of its rows."""
    return [tuple(sorted(set(workers))) or (0,) for workers in placement]
