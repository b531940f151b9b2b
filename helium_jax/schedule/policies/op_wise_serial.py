"""Op-wise with serial rows: every row walks its operators one at a time, all rows at once."""

from helium_jax.schedule.book import Book, RuleDispatcher, operator_order, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, ReadyCall, Release


def op_wise_serial(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """The other reading of op-wise: no barrier between rows, no parallelism inside one."""
    order = operator_order(graph)

    def rule(book: Book, room: int) -> list[Release]:
        next_of_row: dict[int, ReadyCall] = {}
        for call in book.in_order():
            known = next_of_row.get(call.row)
            if book.is_row_idle(call.row) and (known is None or order(call) < order(known)):
                next_of_row[call.row] = call
        return send([*next_of_row.values()][:room])

    return RuleDispatcher(rule, num_workers=setting.num_workers)
