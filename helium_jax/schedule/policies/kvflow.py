"""KVFlow: ready calls at once, round robin; eviction by steps to the owning agent's next turn."""

import itertools
from collections import Counter

from helium_jax.schedule.book import Book
from helium_jax.schedule.call_graph import CallGraph, CallNode
from helium_jax.schedule.dispatch import (
    Dispatcher,
    DispatchSetting,
    PrefixUse,
    ReadyCall,
    Release,
)

FAR = 1_000_000  # steps of an agent whose turns are over


def kvflow(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """Static prefixes are prefilled first; pages are kept by steps to execution (arXiv 2507.07400).

    An agent is a role. A prompt's own pages go by the agent's next turn in the same row; the
    agent's static prefix, which all rows share, by its next turn in any.
    """
    return _KVFlow(graph, setting)


class _KVFlow:
    def __init__(self, graph: CallGraph, setting: DispatchSetting) -> None:
        self._graph = graph
        self._book = Book(setting.num_workers)
        self._turns = itertools.count()
        self._num_active: Counter[str] = Counter()
        self._closed = {node.name: set[int]() for node in graph.nodes}
        self._next_in_row = {node.name: _next_in_row(graph, node) for node in graph.nodes}
        self._prefixes: dict[str, tuple[int, ...]] = {}  # of each role that called
        self._told: dict[str, int] = {}
        self._to_tell: set[str] = set()
        self._has_moved = False

    @property
    def warms(self) -> bool:
        return True

    def coming(self, call_id: int, row: int) -> None:
        self._book.expect(call_id, row)

    def ready(self, call: ReadyCall) -> None:
        self._book.add(call)
        self._activate(call.operator, 1)

    def started(self, call_id: int) -> None:
        """Of no interest here: a call's own pages go by what was said at its release."""

    def finished(self, call_id: int, output_tokens: int) -> None:
        waiting = self._book.ready.get(call_id)
        call = self._book.end(call_id) or waiting
        if call is None:
            return
        self._activate(call.operator, -1)
        node = self._graph.by_name.get(call.operator)
        if node is not None and (count := _static_tokens(node)):
            self._prefixes.setdefault(node.role, call.token_ids[:count])
            self._to_tell.add(node.role)  # its row's own steps stand on these pages now

    def closed(self, operator: str, row: int) -> None:
        rows = self._closed.get(operator)
        if rows is not None:
            rows.add(row)
            self._has_moved = self._has_moved or len(rows) == self._graph.num_rows

    def computed_early(self, operator: str, row: int) -> int | None:
        """Of no interest here: no later use of a row's own pages is told."""

    def lost(self, worker: int) -> None:
        if worker in self._book.workers:
            self._book.workers.remove(worker)

    def release(self, room: int) -> list[Release]:
        releases = []
        for call in self._book.in_order()[: max(room, 0)]:
            self._book.start(call.call_id)
            workers = self._book.workers
            releases.append(
                Release(
                    call_id=call.call_id,
                    priority=call.priority,
                    worker=workers[next(self._turns) % len(workers)] if workers else None,
                    planned_next_use=_told_as(self._next_in_row.get(call.operator, FAR)),
                )
            )
        return releases

    def uses_changed(self) -> list[PrefixUse]:
        if not (self._has_moved or self._to_tell):
            return []
        steps = self._steps_to_execution()
        changed = {role for role in self._prefixes if self._told.get(role) != steps[role]}
        uses = [
            PrefixUse(token_ids=self._prefixes[role], next_use=_told_as(steps[role]))
            for role in sorted(changed | self._to_tell)
        ]
        self._told.update({role: steps[role] for role in self._prefixes})
        self._has_moved = False
        self._to_tell.clear()
        return uses

    def _activate(self, operator: str, change: int) -> None:
        self._num_active[operator] += change
        self._has_moved = self._has_moved or self._num_active[operator] in (0, 1)

    def _steps_to_execution(self) -> dict[str, int]:
        """Per role: 0 while it runs, one more than what it waits for, far when it is finished."""
        steps: dict[str, int] = {}
        of_role: dict[str, int] = {}
        for node in self._graph.nodes:
            if self._num_active[node.name]:
                steps[node.name] = 0
            elif len(self._closed[node.name]) == self._graph.num_rows:
                steps[node.name] = FAR
            else:
                waits = [steps[need] for need in node.needs if steps[need] != FAR]
                steps[node.name] = 1 + max(waits, default=0)
            of_role[node.role] = min(of_role.get(node.role, FAR), steps[node.name])
        return of_role


def _told_as(steps: int) -> int | None:
    """What KV stores hear: of what is far, that nothing needs it, so that it goes first, and so
    that nothing is left of a run when it is over."""
    return None if steps == FAR else steps


def _static_tokens(node: CallNode) -> int:
    """Leading tokens of the operator's prompts that are the same for every row."""
    return int(
        sum(
            s.num_tokens
            for s in itertools.takewhile(lambda segment: segment.is_static, node.segments)
        )
    )


def _next_in_row(graph: CallGraph, node: CallNode) -> int:
    """Steps from an operator to the next one of its role in the same row; far without one."""
    steps = {node.name: 0}
    best = FAR
    for other in graph.nodes[graph.place[node.name] + 1 :]:
        waits = [steps[need] for need in other.needs if need in steps]
        if waits:
            steps[other.name] = 1 + max(waits)
            if other.role == node.role:
                best = min(best, steps[other.name])
        elif other.role == node.role:
            best = 1  # independent of this one: as soon as there is room
    return best
