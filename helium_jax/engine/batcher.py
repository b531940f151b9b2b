"""The batcher: decides what the next step computes. Pure; `transitions.apply` carries it out."""

from collections.abc import Iterable

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.admission_order import Place, order_of_admission
from helium_jax.engine.preemption import choose_displaced, find_pages
from helium_jax.engine.prefill import Prefill
from helium_jax.engine.sequence import Queues, Sequence, rank_of
from helium_jax.engine.step_plan import Row, StepPlan
from helium_jax.kvstore.store import Store


def decide(queues: Queues, store: Store, config: ResolvedEngineConfig) -> StepPlan:
    """The next step. Pure: reads queues and store, changes neither.

    Decodes get their token first; then prompts, running and waiting alike, share the rest of the
    budget in order of service. When pages run out, the last in order of service are preempted, and
    nobody is admitted in that step. When the first waiting one finds no slot or no pages and
    lower priorities hold them, those are displaced, and it alone is admitted.
    """
    plan, refused = _decide(queues, store, config)
    if refused is not None and not plan.admissions:
        displaced = choose_displaced(refused, queues.running, store, config)
        if displaced:
            better, _ = _decide(queues, store, config, newcomer=refused, displaced=displaced)
            return better if better.admissions else plan
    return plan


def _decide(
    queues: Queues,
    store: Store,
    config: ResolvedEngineConfig,
    *,
    newcomer: Sequence | None = None,
    displaced: Iterable[Sequence] = (),
) -> tuple[StepPlan, Sequence | None]:
    """A step, and who ended admission for lack of a slot or of pages.

    Args:
        queues: everybody.
        store: their pages.
        config: limits.
        newcomer: the only one to admit; None for whoever can be.
        displaced: running ones that go back to waiting.
    """
    trial = store.trial()
    gone = dict.fromkeys(displaced)
    for sequence in gone:
        trial.release(sequence.table)
    running = [s for s in queues.running if s not in gone] if gone else queues.running
    decodes, prompts = _split_running(running)
    growth, preemptions = find_pages(running, decodes, trial, store.page_size)
    if preemptions:
        preempted = set(preemptions)
        decodes = [row for row in decodes if row.sequence not in preempted]
        prompts = [sequence for sequence in prompts if sequence not in preempted]
    budget = config.max_num_batched_tokens - len(decodes)
    prefill = Prefill(prompts, trial, store, config, budget, len(running))
    num_slots = len(queues.free_slots) + len(gone)
    if preemptions:
        prefill.run(waiting=(), num_slots=0)
    elif newcomer is not None:
        prefill.run(waiting=[Place(rank_of(newcomer), newcomer)], num_slots=num_slots)
    elif num_slots == 0:  # nobody is looked up in vain
        prefill.run(waiting=[Place(rank_of(s), s) for s in queues.waiting[:1]], num_slots=0)
    else:
        prefill.run(waiting=order_of_admission(queues.waiting, store), num_slots=num_slots)
    chunks = prefill.trimmed_chunks(len(decodes))
    if len(chunks) > 1:
        chunks.sort(key=lambda row: (row.sequence.prefix_order, row.sequence.arrival))
    plan = StepPlan(
        preemptions=tuple(preemptions),
        displacements=tuple(gone),
        growth=tuple(growth),
        admissions=tuple(prefill.admissions),
        rows=(*decodes, *chunks),
        num_tokens=len(decodes) + sum(row.num_tokens for row in chunks),
    )
    return plan, prefill.refused


def _split_running(running: list[Sequence]) -> tuple[list[Row], list[Sequence]]:
    """Rows of the sequences that go on by one token, and the sequences with more to compute, in
    order of service. A sequence whose last tokens are all in flight is in neither, and one with a
    grammar waits until its last token is known: what may follow depends on it."""
    decodes: list[Row] = []
    prompts: list[Sequence] = []
    for sequence in running:
        known = len(sequence.token_ids) + sequence.num_in_flight
        computed = sequence.num_computed
        if known >= sequence.limit:
            continue
        if sequence.num_in_flight and sequence.request.grammar is not None:
            continue
        if computed + 1 == known and not sequence.is_warm:
            decodes.append(Row(sequence, computed, 1, True))
        elif computed < known:
            prompts.append(sequence)
    prompts.sort(key=rank_of)
    return decodes, prompts
