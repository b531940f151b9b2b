"""Query-wise: one row in flight, all its ready operators."""

from helium_jax.schedule.book import Book, RuleDispatcher, operator_order, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, Release


def query_wise(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """Rows one after another, the lowest first; a row's parallel operators share batches."""
    order = operator_order(graph)
    current: int | None = None

    def rule(book: Book, room: int) -> list[Release]:
        nonlocal current
        of_row = [call for call in book.ready.values() if call.row == current]
        if not of_row and book.is_idle:
            current = min(call.row for call in book.ready.values())
            of_row = [call for call in book.ready.values() if call.row == current]
        return send(sorted(of_row, key=order)[:room])

    return RuleDispatcher(rule, num_workers=setting.num_workers)
