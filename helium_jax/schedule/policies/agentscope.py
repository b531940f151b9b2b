"""AgentScope: ready calls at once, but each agent takes only so many at a time."""

from collections import Counter

from helium_jax.schedule.book import Book, RuleDispatcher, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, ReadyCall, Release

MAX_PER_ROLE = 32


def agentscope(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """An agent is an actor: its calls in arrival order, at most 32 in flight per role.

    An operator that the graph does not have, or that has no role, is a role of its own.
    """
    roles = {node.name: node.role or node.name for node in graph.nodes}

    def role_of(call: ReadyCall) -> str:
        return roles.get(call.operator, call.operator)

    def rule(book: Book, room: int) -> list[Release]:
        busy = Counter(map(role_of, book.in_flight.values()))
        chosen = []
        for call in book.in_order():
            role = role_of(call)
            if busy[role] < MAX_PER_ROLE and len(chosen) < room:
                busy[role] += 1
                chosen.append(call)
        return send(chosen)

    return RuleDispatcher(rule, num_workers=setting.num_workers)
