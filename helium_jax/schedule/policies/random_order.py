"""Random: any ready call at once, shuffled."""

import random

from helium_jax.schedule.book import Book, RuleDispatcher, send
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, Release


def random_order(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """Draws with the setting's seed: equal events give equal releases."""
    draws = random.Random(setting.seed)

    def rule(book: Book, room: int) -> list[Release]:
        calls = list(book.ready.values())
        return send(draws.sample(calls, min(room, len(calls))))

    return RuleDispatcher(rule, num_workers=setting.num_workers)
