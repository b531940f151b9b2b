"""Order and cycles of a graph of names, without recursion."""

import heapq
from collections.abc import Iterable, Mapping, Sequence


def topological_order(graph: Mapping[str, Sequence[str]]) -> list[str]:
    """Names after all names they need; where there is a choice, in the graph's own order.

    Names on a cycle, and names that need one of those, are left out.

    Args:
        graph: what each name needs; needed names that are no keys are ignored.
    """
    place = {name: index for index, name in enumerate(graph)}
    missing = {name: 0 for name in graph}
    users: dict[str, list[str]] = {name: [] for name in graph}
    for name, needs in graph.items():
        for need in set(needs):
            if need in graph:
                missing[name] += 1
                users[need].append(name)
    ready = [place[name] for name, count in missing.items() if count == 0]
    heapq.heapify(ready)
    names = list(graph)
    order = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for user in users[name]:
            missing[user] -= 1
            if missing[user] == 0:
                heapq.heappush(ready, place[user])
    return order


def find_cycles(graph: Mapping[str, Sequence[str]], *, most: int = 10) -> list[list[str]]:
    """Cycles as paths that begin and end with the same name; no two share a name."""
    done: set[str] = set()
    cycles: list[list[str]] = []
    for root in graph:
        if root in done:
            continue
        path = [root]
        on_path = {root: 0}
        branches = [iter(graph[root])]
        while path:
            need = next(branches[-1], None)
            if need is None:
                branches.pop()
                name = path.pop()
                del on_path[name]
                done.add(name)
            elif need in on_path:
                cycle = path[on_path[need] :]
                if not any(name in other for other in cycles for name in cycle):
                    cycles.append([*cycle, need])
                if len(cycles) == most:
                    return cycles
            elif need in graph and need not in done:
                on_path[need] = len(path)
                path.append(need)
                branches.append(iter(graph[need]))
    return cycles


def reachable(graph: Mapping[str, Sequence[str]], roots: Iterable[str]) -> frozenset[str]:
    """The names that `roots` need, themselves included."""
    seen: set[str] = set()
    pending = [name for name in roots if name in graph]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        pending += [need for need in graph[name] if need in graph]
    return frozenset(seen)
