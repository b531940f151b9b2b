"""A policy that repeats an order: each worker's calls in a given sequence."""

from collections.abc import Sequence

from helium_jax.schedule.book import Book, RuleDispatcher
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, MakePolicy, Release

Place = tuple[str, int]  # operator, row


def given_order(orders: Sequence[Sequence[Place]]) -> MakePolicy:
    """Releases a call when it is ready and every call before it on its worker was released.

    Args:
        orders: (operator, row) of each worker's calls. Calls that are in none are never released.
    """

    def make(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
        nexts = [0] * len(orders)

        def rule(book: Book, room: int) -> list[Release]:
            ready = {(call.operator, call.row): call for call in book.ready.values()}
            releases: list[Release] = []
            for worker, order in enumerate(orders):
                while nexts[worker] < len(order) and len(releases) < room:
                    call = ready.get(order[nexts[worker]])
                    if call is None:
                        break
                    nexts[worker] += 1
                    releases.append(
                        Release(call_id=call.call_id, priority=call.priority, worker=worker)
                    )
            return releases

        return RuleDispatcher(rule, num_workers=setting.num_workers)

    return make
