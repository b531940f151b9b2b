"""Naive: one call in flight in all, row after row, operator after operator."""

from helium_jax.schedule.book import Book, RuleDispatcher, operator_order, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, Release


def naive(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """What a script around an engine does (paper section 8, "naive vLLM")."""
    order = operator_order(graph)

    def rule(book: Book, room: int) -> list[Release]:
        if not book.is_idle:
            return []
        return send([min(book.ready.values(), key=lambda call: (call.row, order(call)))])

    return RuleDispatcher(rule, num_workers=setting.num_workers)
