"""Who gives pages and slots back: for want of pages to grow, or for a higher priority."""

import math

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.sequence import Sequence, rank_of
from helium_jax.engine.step_plan import Row
from helium_jax.kvstore.store import Store
from helium_jax.kvstore.trial import Trial


def find_pages(
    running: list[Sequence], decodes: list[Row], trial: Trial, page_size: int
) -> tuple[list[tuple[Sequence, int]], list[Sequence]]:
    """Pages that decodes grow by, and who must be preempted to have them: the last in order of
    service. (Prompts got theirs at admission.) Pins go before any of them."""
    growing = [
        sequence
        for sequence, position, _, _ in decodes
        if position == len(sequence.table.pages) * page_size
    ]
    if len(growing) <= trial.num_possible:
        trial.take(len(growing))
        return [(sequence, 1) for sequence in growing], []
    in_need = set(growing)
    growth = []
    preemptions = []
    served = sorted(running, key=rank_of)
    i = 0
    while i < len(served):
        sequence = served[i]
        if sequence in in_need:
            if trial.num_possible == 0:
                victim = served.pop()
                trial.release(victim.table)
                preemptions.append(victim)
                continue
            trial.take(1)
            growth.append((sequence, 1))
        i += 1
    return growth, preemptions


def choose_displaced(
    newcomer: Sequence, running: list[Sequence], store: Store, config: ResolvedEngineConfig
) -> list[Sequence]:
    """Running sequences whose slots and pages let `newcomer` run, the last in order of service
    first; none when it would not be enough.

    Only strictly lower priorities are displaced, and each only once per page of tokens that it
    generates: it makes progress whatever else arrives. Those that stay can all grow by a page
    afterwards, so that none of them has to go in the next step.
    """
    lowest = max((sequence.request.priority for sequence in running), default=0)
    if lowest <= newcomer.request.priority:
        return []
    page_size = store.page_size
    resident = store.match(newcomer.table, newcomer.num_shareable_blocks(page_size))
    num_pages = -(-len(newcomer.token_ids) // page_size) - len(resident)
    trial = store.trial()
    displaced = []
    for sequence in sorted(running, key=rank_of, reverse=True):
        if sequence.request.priority <= newcomer.request.priority:
            break
        if len(sequence.token_ids) < sequence.displaceable_from:
            continue
        trial.release(sequence.table)
        displaced.append(sequence)
        num_left = len(running) - len(displaced)
        room = trial.num_available - trial.count_idle(resident, is_pinned=False) - num_pages
        if room >= num_left + headroom(newcomer, num_left, config):
            return displaced
    return []


def headroom(sequence: Sequence, num_running: int, config: ResolvedEngineConfig) -> int:
    """Pages that must be left after an admission, for the running ones to grow into.

    A sequence that was preempted returns only when everybody could grow by a page, lest it be
    preempted again at once. With nobody running there is nobody to grow.
    """
    if num_running == 0:
        return 0
    watermark = math.ceil(config.watermark * config.num_pages)
    return max(watermark, num_running) if sequence.preemptions else watermark
