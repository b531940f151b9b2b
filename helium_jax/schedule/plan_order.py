"""The order in which a plan's calls are wanted: critical path first, in prefix groups and windows.

Nested as in the paper (section 6): what lies on longer paths comes first; operators that begin with
the same static text stay together, row by row, and different groups follow each other. What it
lacks are windows: where rows keep pages for their own later calls, only as many rows are begun as
the KV store can hold, so that those pages are used again before they must go.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

from helium_jax.schedule.call_graph import CallGraph, CallNode
from helium_jax.schedule.dispatch import DispatchSetting

PREFILL_SHARE = 0.05  # a prompt token's time beside that of an output token, for path lengths
KV_SHARE = 0.8  # of the KV store, for what rows keep for later and what is in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOrder:
    """Places of all calls in one order; it never puts a call before one that it needs.

    Attributes:
        num_rows: of the batch.
        window: rows that are begun together.
        levels: per operator, its place among the operators: equal for the operators of a prefix
            group that go row by row.
        places: per operator, its place in the graph.
    """

    num_rows: int
    window: int
    levels: dict[str, int]
    places: dict[str, int]

    def rank(self, operator: str, row: int) -> int:
        """The place of a call; an operator that the graph does not have is wanted at once."""
        num_places = len(self.places) + 1
        window = row // self.window
        level = self.levels.get(operator, -1) + 1
        place = self.places.get(operator, -1) + 1
        return ((window * num_places + level) * self.num_rows + row) * num_places + place


def plan_order(graph: CallGraph, setting: DispatchSetting) -> PlanOrder:
    """The order for a graph on engines like these."""
    urgency = path_lengths(graph)
    groups: dict[tuple[float, str], list[CallNode]] = defaultdict(list)
    for node in graph.nodes:
        groups[-urgency[node.name], node.role].append(node)
    levels = {node.name: i for i, key in enumerate(sorted(groups)) for node in groups[key]}
    return PlanOrder(
        num_rows=max(graph.num_rows, 1),
        window=choose_window(graph, setting),
        levels=levels,
        places=dict(graph.place),
    )


def path_lengths(graph: CallGraph) -> dict[str, float]:
    """Per operator the longest way to an end, in output tokens; longer than that of any user.

    Operators of one role that are equally many calls from their ends get the longest of their
    lengths, so that they stay together.
    """
    hops: dict[str, int] = {}
    for node in reversed(graph.nodes):
        hops[node.name] = 1 + max((hops[user] for user in graph.users[node.name]), default=0)
    by_hops: dict[int, list[CallNode]] = defaultdict(list)
    for node in graph.nodes:
        by_hops[hops[node.name]].append(node)
    lengths: dict[str, float] = {}
    for _, nodes in sorted(by_hops.items()):
        longest: dict[str, float] = defaultdict(float)
        for node in nodes:
            behind = max((lengths[user] for user in graph.users[node.name]), default=0.0)
            own = (node.output_tokens + PREFILL_SHARE * node.prompt_tokens) * node.repeats
            longest[node.role] = max(longest[node.role], behind + max(own, 1e-6))
        lengths |= {node.name: longest[node.role] for node in nodes}
    return lengths


def choose_window(graph: CallGraph, setting: DispatchSetting) -> int:
    """How many rows to begin together: all, or as many as the KV store holds pages for.

    Never fewer than fill the engines, whose idle places cost more than pages computed again.
    """
    rows = max(graph.num_rows, 1)
    if not graph.nodes:
        return rows
    mean = sum(n.prompt_tokens + n.output_tokens for n in graph.nodes) / len(graph.nodes)
    seats = setting.num_workers * setting.max_num_seqs
    static = sum({node.role: _static_tokens(node) for node in graph.nodes}.values())
    capacity = setting.num_workers * (KV_SHARE * setting.kv_tokens - static)
    kept = kept_per_row(graph)
    fitting = int((capacity - 0.5 * seats * mean) / kept) if kept > 0.0 else 1
    parallel = len(graph.nodes) / max(_depth(graph), 1)
    filling = math.ceil(1.25 * seats / parallel)
    return min(max(fitting, filling, 1), rows)


def kept_per_row(graph: CallGraph) -> float:
    """Tokens that a row keeps for its own later calls, at most: its shared stretches, each once."""
    users: dict[tuple[str, ...], int] = defaultdict(int)
    lengths: dict[tuple[str, ...], float] = {}
    for node in graph.nodes:
        path: tuple[str, ...] = ()
        is_static = True
        for segment in node.segments:
            if not segment.key:
                break
            path = (*path, segment.key)
            is_static = is_static and (segment.is_static or bool(segment.group))
            if not is_static:
                users[path] += 1
                lengths[path] = segment.num_tokens
    return sum(length for path, length in lengths.items() if users[path] > 1)


def _static_tokens(node: CallNode) -> float:
    total = 0.0
    for segment in node.segments:
        if not segment.is_static:
            break
        total += segment.num_tokens
    return total


def _depth(graph: CallGraph) -> int:
    depth: dict[str, int] = {}
    for node in graph.nodes:
        depth[node.name] = 1 + max((depth[need] for need in node.needs), default=0)
    return max(depth.values(), default=0)
