"""Parrot: ready calls at once, each to the worker that has most of its prompt."""

import itertools

from helium_jax.schedule.book import Book, RuleDispatcher
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, Release
from helium_jax.schedule.resident import Resident, page_hashes


def parrot(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """No load term: whoever has the longest cached prefix gets the call, however busy it is.

    Among workers with equally much of it (none, at first) calls go round.
    """
    resident = [Resident(setting.page_size, setting.kv_tokens) for _ in range(setting.num_workers)]
    turns = itertools.count()

    def rule(book: Book, room: int) -> list[Release]:
        releases = []
        for call in book.in_order()[:room]:
            pages = page_hashes(call.token_ids, setting.page_size)
            cached = {worker: resident[worker].match(pages) for worker in book.workers}
            most = max(cached.values(), default=0)
            best = [worker for worker, num_pages in cached.items() if num_pages == most]
            worker = best[next(turns) % len(best)] if best else None
            if worker is not None:
                resident[worker].use(pages)
            releases.append(Release(call_id=call.call_id, priority=call.priority, worker=worker))
        return releases

    return RuleDispatcher(rule, num_workers=setting.num_workers)
