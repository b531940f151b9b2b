"""LSPF: ready calls at once; the engine admits the longest cached prefix first, at every step."""

from helium_jax.schedule.book import Book, RuleDispatcher
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, Release


def lspf(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """Longest shared prefix first, online: what an engine can do that knows no plan."""

    def rule(book: Book, room: int) -> list[Release]:
        return [
            Release(call_id=call.call_id, priority=call.priority, prefer_cached=True)
            for call in book.in_order()[:room]
        ]

    return RuleDispatcher(rule, num_workers=setting.num_workers)
