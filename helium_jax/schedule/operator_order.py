"""Operators in nested sequences: the paper's depth-first walk over the prefix tree (section 6).

Works on operators, not on calls, so its effort does not grow with the batch. Operators that begin
with the same static text follow each other where their data allow it, those on the longest way to
an end come first, and when nothing can start without waiting, the one that can start first goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.prefix_tree import tree_of
from helium_jax.schedule.token_step import TokenSteps

# One inner sequence: a worker runs it row by row, all its operators of a row together.
Inner = tuple[str, ...]


@dataclass(slots=True)
class _Load:
    """An operator over all its rows.

    Attributes:
        first: cost of the first row, in token steps.
        total: cost of all rows on one of its workers.
        tail: longest time behind its end, to the end of all that waits for it.
        first_end: when its first row ended.
        end: when its last row ended; None before it is in the order.
    """

    first: float
    total: float
    tail: float = 0.0
    first_end: float = 0.0
    end: float | None = None


@dataclass(slots=True)
class Branch:
    """A place where templates part or end; the first is the root."""

    parent: int
    children: list[int]
    calls: list[str]


def order_operators(
    steps: TokenSteps, placement: Sequence[Sequence[int]], branches: Sequence[Branch] = ()
) -> list[str]:
    """The operators in the order in which their first calls are wanted.

    Args:
        steps: cost model; of its calls, those that are done cost nothing.
        placement: per operator of the graph the workers that have it.
        branches: of the graph, where they were found already.
    """
    walk = _Walk(steps, placement, branches or find_branches(steps.graph))
    while walk.frontier:
        if not walk.run_pass():
            walk.force()
    return walk.order


class _Weight(NamedTuple):
    """How much a subtree is wanted now; the greatest first.

    Attributes:
        urgency: the longest tail of what is missing in it; -1 if nothing is.
        minus_blocked: how many of its operators cannot follow yet, negative: whoever comes back for
            them computes the shared text again.
    """

    urgency: float
    minus_blocked: int

    def plus(self, other: "_Weight") -> "_Weight":
        """Of both together."""
        blocked = self.minus_blocked + other.minus_blocked
        return _Weight(urgency=max(self.urgency, other.urgency), minus_blocked=blocked)


class _Walk:
    """The state of one walk: clocks per worker, and what was emitted."""

    def __init__(
        self, steps: TokenSteps, placement: Sequence[Sequence[int]], tree: Sequence[Branch]
    ) -> None:
        self._graph = steps.graph
        self._steps = steps
        self._workers = dict(zip(self._graph.by_name, placement, strict=True))
        self._tree = tree
        self._clocks = [0.0] * len(steps.capacities)
        self._loads = {
            node.name: _load(steps, place, len(self._workers[node.name]))
            for place, node in enumerate(self._graph.nodes)
        }
        for node in reversed(self._graph.nodes):
            load = self._loads[node.name]
            behind = [self._loads[user] for user in self._graph.users[node.name]]
            delay = steps.scale * node.output_tokens * node.repeats
            load.tail = max((delay + user.first + user.tail for user in behind), default=0.0)
        self.order: list[str] = []
        # What needs nothing that is missing, and when its rows can follow without a gap.
        self.frontier: dict[str, float] = {}
        self._num_missing = {node.name: len(node.needs) for node in self._graph.nodes}
        for node in self._graph.nodes:
            if not node.needs:
                self.frontier[node.name] = 0.0
        self._weights: list[_Weight] = []

    def run_pass(self) -> bool:
        """Walks the tree once and emits what can start without waiting; whether there was any."""
        if not any(map(self._can_start, self.frontier)):
            return False
        self._weigh()
        pending: list[int | str] = [0]  # branches and calls; the last one is looked at first
        while pending:
            entry = pending.pop()
            if isinstance(entry, str):
                if self._can_start(entry):
                    self._emit(entry)
                continue
            branch = self._tree[entry]
            entries: list[tuple[_Weight, bool, int, int | str]] = [
                (self._weights[child], True, -child, child)
                for child in branch.children
                if self._weights[child].urgency >= 0.0
            ]
            entries += [
                (self._weight(name), False, -self._graph.place[name], name)
                for name in branch.calls
                if self._loads[name].end is None
            ]
            # Of equally weighty ones those that share more come first.
            entries.sort(key=lambda weighed: weighed[:3])
            pending += [entry for *_, entry in entries]
        return True

    def force(self) -> None:
        """Emits the operator that can start first, and lets its workers wait for it."""
        ready = self.frontier
        self._emit(min(ready, key=lambda name: (ready[name], *self._rank(name))))

    def _weigh(self) -> None:
        """Weighs what is missing below every branch, as it is before this pass."""
        weights = [_Weight(urgency=-1.0, minus_blocked=0)] * len(self._tree)
        for index in reversed(range(len(self._tree))):
            branch = self._tree[index]
            missing = (name for name in branch.calls if self._loads[name].end is None)
            for weight in map(self._weight, missing):
                weights[index] = weights[index].plus(weight)
            if index:
                weights[branch.parent] = weights[branch.parent].plus(weights[index])
        self._weights = weights

    def _weight(self, call: str) -> "_Weight":
        is_blocked = self._num_missing[call] > 0
        return _Weight(urgency=self._loads[call].tail, minus_blocked=-int(is_blocked))

    def _rank(self, call: str) -> tuple[float, int]:
        return -self._loads[call].tail, self._graph.place[call]

    def _ready(self, call: str) -> float:
        """When its rows can follow those of the operators that it needs without a gap."""
        load = self._loads[call]
        ready = 0.0
        for need in self._graph.by_name[call].needs:
            node, other = self._graph.by_name[need], self._loads[need]
            assert other.end is not None
            delay = self._steps.scale * node.output_tokens * node.repeats
            last = other.end - load.total + load.first
            ready = max(ready, max(other.first_end, last) + delay)
        return ready

    def _can_start(self, call: str) -> bool:
        if call not in self.frontier:
            return False
        clock = max(self._clocks[worker] for worker in self._workers[call])
        return self.frontier[call] <= clock

    def _emit(self, call: str) -> None:
        load = self._loads[call]
        workers = self._workers[call]
        start = max(self.frontier.pop(call), *(self._clocks[worker] for worker in workers))
        load.first_end = start + load.first
        load.end = start + load.total
        for worker in workers:
            self._clocks[worker] = load.end
        self.order.append(call)
        for user in self._graph.users[call]:
            self._num_missing[user] -= 1
            if not self._num_missing[user]:
                self.frontier[user] = self._ready(user)


def _load(steps: TokenSteps, place: int, num_workers: int) -> _Load:
    """Costs of an operator: its first row pays for the prompt, the others for what differs."""
    rows = steps.graph.num_rows
    calls = [call for call in range(place * rows, (place + 1) * rows) if call not in steps.done]
    if not calls:
        return _Load(first=0.0, total=0.0)
    first = steps.usage(0, None, calls[0])
    other = steps.usage(0, calls[0], calls[-1]) if len(calls) > 1 else 0.0
    return _Load(first=first, total=first + other * (len(calls) / num_workers - 1))


def find_branches(graph: CallGraph) -> list[Branch]:
    """The prefix tree without stretches that lead to only one place: at most two nodes a call."""
    tree = tree_of(graph)
    counts = [len(node.calls) for node in tree.nodes]
    for index in reversed(range(1, len(tree.nodes))):
        counts[tree.nodes[index].parent] += counts[index]
    branches = [Branch(parent=0, children=[], calls=list(tree.nodes[0].calls))]
    pending = [(child, 0) for child in reversed(tree.nodes[0].children)]
    while pending:
        index, parent = pending.pop()
        node = tree.nodes[index]
        while not node.calls and len(node.children) == 1:
            node = tree.nodes[node.children[0]]
        if counts[index] == 1:  # nothing parts below: the only call hangs on the parent
            while not node.calls:
                node = tree.nodes[node.children[0]]
            branches[parent].calls += node.calls
            continue
        branches[parent].children.append(len(branches))
        pending += [(child, len(branches)) for child in reversed(node.children)]
        branches.append(Branch(parent=parent, children=[], calls=list(node.calls)))
    return branches


def role_of(graph: CallGraph, name: str) -> tuple[str, ...]:
    """The static text with which an operator's prompt begins, as keys."""
    keys: list[str] = []
    for segment in graph.by_name[name].segments:
        if not segment.is_static or not segment.key:
            break
        keys.append(segment.key)
    return tuple(keys)


def nest(graph: CallGraph, order: Sequence[str], *, with_dependents: bool) -> tuple[Inner, ...]:
    """Inner sequences: neighbours in `order` that begin with the same static text.

    Args:
        graph: the calls.
        order: all operators.
        with_dependents: an inner sequence may hold an operator and one that needs it.
    """
    inners: list[list[str]] = []
    inside: set[str] = set()
    first_key: str | None = None
    for name in order:
        keys = role_of(graph, name)
        key = keys[0] if keys else None
        depends = any(need in inside for need in graph.by_name[name].needs)
        if key is not None and key == first_key and inners and (with_dependents or not depends):
            inners[-1].append(name)
            inside.add(name)
            continue
        inners.append([name])
        inside, first_key = {name}, key
    return tuple(map(tuple, inners))
