"""LangGraph: every row runs in supersteps of its own."""

from helium_jax.schedule.book import Book, RuleDispatcher, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, Release


def langgraph(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """A row's ready operators go out together, and its next ones when all of them are done.

    All rows run at once; the graph is not looked at.
    """
    step: dict[int, int] = {}  # calls of supersteps that have begun and wait for room -> row

    def rule(book: Book, room: int) -> list[Release]:
        for call_id in [call_id for call_id in step if call_id not in book.ready]:
            del step[call_id]
        in_step = set(step.values())
        calls = book.in_order()
        for call in calls:
            if call.row not in in_step and book.is_row_idle(call.row):
                step[call.call_id] = call.row
        return send([call for call in calls if call.call_id in step][:room])

    return RuleDispatcher(rule, num_workers=setting.num_workers)
