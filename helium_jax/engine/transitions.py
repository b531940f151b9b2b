"""What happens to sequences between steps: they come, are advanced by a plan, and leave.

The only functions that change a `Sequence` and `Queues`. The loop calls, in this order and with
nothing else in between: `batcher.decide`, `apply`, packing and dispatch of the step; then reads
results, `accept`s each token and `retire`s what has ended. Waiting sequences join by `submit` and
leave by `retire` at any time outside that.
"""

from helium_jax.engine.admission_order import count_overtaken
from helium_jax.engine.sequence import Queues, Sequence, SequenceStatus
from helium_jax.engine.step_plan import Row, StepPlan
from helium_jax.errors import InternalError
from helium_jax.kvstore.store import Store


def submit(sequence: Sequence, queues: Queues) -> None:
    """Puts a new sequence into the waiting queue."""
    queues.add_waiting(sequence)


def apply(plan: StepPlan, queues: Queues, store: Store) -> None:
    """Carries a plan out: pages, slots, queues and counts are then as the step will leave them.

    `plan` must come from `decide` on the very same state.

    Raises:
        InternalError: the plan does not fit the store.
    """
    for sequence in (*plan.preemptions, *plan.displacements):
        _leave_running(sequence, queues, store)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed = 0
        sequence.preemptions += 1
        queues.add_waiting(sequence)
    for sequence in plan.displacements:
        sequence.displaceable_from = len(sequence.token_ids) + store.page_size
    # References on matched pages come before any allocation, which might evict them.
    for sequence, num_matched, _ in plan.admissions:
        store.attach(sequence.table, num_matched)
    for sequence, num_pages in plan.growth:
        store.append(sequence.table, num_pages)
    row_of_admitted: dict[Sequence, Row] = {}
    for row in plan.rows:
        if row.sequence.status is SequenceStatus.RUNNING:
            _advance(row, store)
        else:
            row_of_admitted[row.sequence] = row
    for sequence, num_matched, num_pages in plan.admissions:
        if store.attach(sequence.table, num_matched) != num_matched:
            raise InternalError(
                f"request {sequence.request.request_id!r} was to share {num_matched} blocks, of "
                f"which {len(sequence.table.blocks)} are there"
            )
        store.append(sequence.table, num_pages)
        _start_running(sequence, num_matched * store.page_size, queues, store)
        if sequence in row_of_admitted:
            _advance(row_of_admitted[sequence], store)
    count_overtaken(queues.waiting, [admission.sequence for admission in plan.admissions])


def accept(sequence: Sequence, token_id: int, store: Store) -> bool:
    """Takes in the token that a step sampled for a sequence, oldest step first.

    Returns False, and drops the token, when the sequence has ended in the meantime.
    """
    sequence.num_in_flight -= 1
    if sequence.status is SequenceStatus.FINISHED:
        return False
    sequence.token_ids.append(token_id)
    if len(sequence.token_ids) % store.page_size == 0:
        store.extend_keys(sequence.table, sequence.token_ids)
    _commit(sequence, store)
    return True


def retire(sequence: Sequence, queues: Queues, store: Store, *, is_damaged: bool = False) -> None:
    """Ends a sequence, whatever it is doing; its pages are free or cached at once.

    Steps in flight may still write to them: later steps run after these, so whoever gets a page
    next writes it afterwards. Does nothing when the sequence has ended already.

    Args:
        is_damaged: its KV may be wrong, so blocks that nobody else reads are forgotten.
    """
    if sequence.status is SequenceStatus.RUNNING:
        _leave_running(sequence, queues, store, is_damaged=is_damaged)
    elif sequence.status is SequenceStatus.WAITING:
        queues.remove_waiting(sequence)
    sequence.status = SequenceStatus.FINISHED


def _start_running(sequence: Sequence, num_cached: int, queues: Queues, store: Store) -> None:
    if sequence.kv_cached is None:
        sequence.kv_cached = num_cached
        store.count_lookup(sequence.num_prompt, num_cached)
    queues.remove_waiting(sequence)
    queues.add_running(sequence)
    sequence.slot = queues.free_slots.pop()
    sequence.status = SequenceStatus.RUNNING
    sequence.num_computed = num_cached
    sequence.most_computed = max(sequence.most_computed, num_cached)


def _leave_running(
    sequence: Sequence, queues: Queues, store: Store, *, is_damaged: bool = False
) -> None:
    assert sequence.slot is not None, "a running sequence has a slot"
    queues.remove_running(sequence)
    queues.free_slots.append(sequence.slot)
    sequence.slot = None
    store.release(sequence.table, is_damaged=is_damaged)


def _advance(row: Row, store: Store) -> None:
    sequence, start, num_tokens, samples = row
    end = start + num_tokens
    sequence.num_computed = end
    sequence.num_in_flight += samples
    if end > sequence.most_computed:
        sequence.recomputed += max(sequence.most_computed - start, 0)
        sequence.most_computed = end
    else:
        sequence.recomputed += num_tokens
    _commit(sequence, store)


def _commit(sequence: Sequence, store: Store) -> None:
    """Shares full blocks that are computed and whose token ids the host knows, if there are new
    ones."""
    table = sequence.table
    num_tokens = min(sequence.num_computed, len(sequence.token_ids))
    if table.copies or min(num_tokens // store.page_size, len(table.keys)) > len(table.blocks):
        store.commit(table, num_tokens)
