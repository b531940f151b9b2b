"""Op-wise with barriers: one operator at a time, over all rows."""

from helium_jax.schedule.book import Book, RuleDispatcher, operator_order, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, ReadyCall, Release


def op_wise(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """Operators in topological order, each over the whole batch, a barrier after each.

    Inside a loop or map every iteration is an operator of its own, as if it were unrolled. A wave
    begins when nothing is in flight or coming, so it has every row that will ever need it.
    """
    order = operator_order(graph)
    wave: list[ReadyCall] = []

    def rule(book: Book, room: int) -> list[Release]:
        nonlocal wave
        wave = [call for call in wave if call.call_id in book.ready]
        if not wave and book.is_idle:
            first = min(map(order, book.ready.values()))
            wave = [call for call in book.ready.values() if order(call) == first]
            wave.sort(key=lambda call: (call.row, call.call_id))
        return send(wave[:room])

    return RuleDispatcher(rule, num_workers=setting.num_workers)
