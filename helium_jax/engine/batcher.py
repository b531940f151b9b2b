"""The batcher: decides what the next step computes, and carries the decision out on the store.

`decide` is pure. The loop calls, in this order and with nothing else in between: `decide`,
`apply`, packing and dispatch of the step; then reads results, `accept`s each token and `retire`s
what has ended. Waiting sequences join by `submit` and leave by `retire` at any time outside that.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.sequence import Queues, Sequence, SequenceStatus
from helium_jax.errors import InternalError
from helium_jax.kvstore.prefix_index import BlockKey
from helium_jax.kvstore.store import Store
from helium_jax.kvstore.trial import Trial


class Row(NamedTuple):
    """Work of one sequence in a step. (A tuple, since a step makes hundreds.)

    Attributes:
        sequence: whose tokens.
        start: position of the first one.
        num_tokens: how many, at least 1.
        samples: the last of them is the last one known, so its logits give the next token.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool


class Admission(NamedTuple):
    """A waiting sequence that starts to run.

    Attributes:
        sequence: who.
        num_matched: leading blocks it shares with others: resident, or computed in this step.
        num_pages: private pages for the rest of its known tokens.
    """

    sequence: Sequence
    num_matched: int
    num_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step.

    Attributes:
        preemptions: running sequences that go back to waiting.
        growth: running sequences that need more pages, and how many.
        admissions: waiting sequences that start to run, in order: a later one may share blocks
            of an earlier one.
        rows: work, in the order of the step's rows: single tokens first, then chunks, and
            common prefixes next to each other within both.
        num_tokens: of all rows.
    """

    preemptions: tuple[Sequence, ...]
    growth: tuple[tuple[Sequence, int], ...]
    admissions: tuple[Admission, ...]
    rows: tuple[Row, ...]
    num_tokens: int


def choose_chunk(num_todo: int, budget: int) -> int:
    """How many of its uncomputed tokens a sequence computes in a step with this much room left.

    The one place where prompts are cut.
    """
    return min(num_todo, budget)


def trim_to_bucket(num_tokens: int, last_chunk: int, buckets: tuple[int, ...]) -> int:
    """Tokens to put off so that a step which barely exceeds a bucket fits into it.

    A step costs what its bucket costs. Put off until the next step, at most an eighth of the
    smaller bucket rides along there.
    """
    below = max((bucket for bucket in buckets if bucket < num_tokens), default=0)
    excess = num_tokens - below
    if num_tokens in buckets or excess > below // 8 or excess >= last_chunk:
        return 0
    return excess


def decide(queues: Queues, store: Store, config: ResolvedEngineConfig) -> StepPlan:
    """The next step. Pure: reads queues and store, changes neither.

    Decodes get their token first, then running prompts in order of service, then admissions. When
    pages run out, the last in order of service are preempted, and nobody is admitted in that step.
    """
    trial = store.trial()
    rows = _continue_running(queues, config)
    growth, preemptions = _find_pages(queues, rows, trial, store.page_size)
    if preemptions:
        gone = set(preemptions)
        rows = [row for row in rows if row.sequence not in gone]
        admissions: list[Admission] = []
    else:
        admissions, admitted = _admit(queues, rows, trial, store, config)
        rows += admitted
    num_tokens = sum(row.num_tokens for row in rows)
    # Only the chunk granted last may shrink: nobody counts on the blocks it completes.
    if rows and (not admissions or admissions[-1].sequence is rows[-1].sequence):
        excess = trim_to_bucket(num_tokens, rows[-1].num_tokens, config.token_buckets)
        if excess:
            num_tokens -= excess
            last = rows[-1]
            rows[-1] = last._replace(num_tokens=last.num_tokens - excess, samples=False)
    chunks = [row for row in rows if row.num_tokens > 1]
    if chunks:
        if len(chunks) > 1:
            chunks.sort(key=lambda row: (row.sequence.prefix_order, row.sequence.arrival))
        rows = [row for row in rows if row.num_tokens == 1] + chunks
    return StepPlan(
        preemptions=tuple(preemptions),
        growth=tuple(growth),
        admissions=tuple(admissions),
        rows=tuple(rows),
        num_tokens=num_tokens,
    )


def _continue_running(queues: Queues, config: ResolvedEngineConfig) -> list[Row]:
    """Rows of running sequences: single tokens first, then chunks in order of service."""
    rows: list[Row] = []
    prompts: list[Sequence] = []
    for sequence in queues.running:
        known = len(sequence.token_ids) + sequence.num_in_flight
        computed = sequence.num_computed
        if computed + 1 == known:
            if known < sequence.limit or sequence.is_warm:
                rows.append(Row(sequence, computed, 1, not sequence.is_warm))
        elif computed < known:
            prompts.append(sequence)
    budget = config.max_num_batched_tokens - len(rows)
    prompts.sort(key=lambda sequence: sequence.rank)
    for sequence in prompts:
        if budget == 0:
            break
        row = _make_row(sequence, sequence.num_computed, budget)
        budget -= row.num_tokens
        rows.append(row)
    return rows


def _make_row(sequence: Sequence, start: int, budget: int) -> Row:
    known = sequence.num_known
    num_tokens = choose_chunk(known - start, budget)
    samples = start + num_tokens == known and not sequence.is_warm
    return Row(sequence, start, num_tokens, samples)


def _find_pages(
    queues: Queues, rows: list[Row], trial: Trial, page_size: int
) -> tuple[list[tuple[Sequence, int]], list[Sequence]]:
    """Pages that the rows need, and who must be preempted to have them."""
    growth = []
    total = 0
    for sequence, start, num_tokens, _ in rows:
        needed = -(-(start + num_tokens) // page_size) - len(sequence.table.pages)
        if needed > 0:
            growth.append((sequence, needed))
            total += needed
    if total <= trial.num_available:
        trial.take(total)
        return growth, []
    needed_by = dict(growth)
    growth = []
    preemptions = []
    served = sorted(queues.running, key=lambda sequence: sequence.rank)
    i = 0
    while i < len(served):
        sequence = served[i]
        needed = needed_by.get(sequence, 0)
        if needed > trial.num_available:
            victim = served.pop()
            trial.release(victim.table)
            preemptions.append(victim)
            continue
        if needed:
            trial.take(needed)
            growth.append((sequence, needed))
        i += 1
    return growth, preemptions


def _admit(
    queues: Queues, rows: list[Row], trial: Trial, store: Store, config: ResolvedEngineConfig
) -> tuple[list[Admission], list[Row]]:
    """Waiting sequences that start now, in order of service, and their rows.

    The first one that lacks pages stops the scan, so nobody is overtaken for being long. Only
    those whose next block is about to be computed by somebody else are passed over.
    """
    admissions: list[Admission] = []
    admitted: list[Row] = []
    budget = config.max_num_batched_tokens - sum(row.num_tokens for row in rows)
    num_slots = len(queues.free_slots)
    if not queues.waiting or budget == 0 or num_slots == 0:
        return admissions, admitted
    page_size = store.page_size
    watermark = math.ceil(config.watermark * store.num_pages)
    prefixes = _Prefixes(page_size)
    for row in rows:
        prefixes.add(row)
    num_running = len(queues.running)
    num_passed = 0
    for sequence in queues.waiting:
        if budget == 0 or len(admissions) == num_slots or sequence.num_in_flight:
            break
        known = len(sequence.token_ids)
        most = (known if sequence.is_warm else known - 1) // page_size
        resident = store.match(sequence.table, most)
        num_matched = prefixes.extend_match(sequence, len(resident), most)
        if prefixes.is_pending(sequence, num_matched, most):
            num_passed += 1
            if num_passed == config.max_num_seqs:
                break
            continue
        num_pages = -(-known // page_size) - num_matched
        left = trial.num_available - num_pages - trial.count_idle(resident)
        if left < _headroom(sequence, num_running, watermark):
            break
        trial.attach(resident)
        trial.take(num_pages)
        admissions.append(Admission(sequence, num_matched, num_pages))
        num_running += 1
        if num_matched * page_size < known:
            row = _make_row(sequence, num_matched * page_size, budget)
            budget -= row.num_tokens
            admitted.append(row)
            prefixes.add(row)
    return admissions, admitted


def _headroom(sequence: Sequence, num_running: int, watermark: int) -> int:
    """Pages that must be left after an admission, for the running ones to grow into.

    A sequence that was preempted returns only when everybody could grow by a page, lest it be
    preempted again at once. With nobody running there is nobody to grow.
    """
    if num_running == 0:
        return 0
    return max(watermark, num_running) if sequence.preemptions else watermark


class _Prefixes:
    """Blocks that this step computes, and those that running prompts will compute later."""

    __slots__ = ("_keys", "_page_size", "_unfinished")

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._keys: dict[bytes, BlockKey] = {}
        self._unfinished: list[list[BlockKey]] = []

    def add(self, row: Row) -> None:
        """Notes a row of the step being planned. Every running prompt has one as long as there is
        budget left to admit anybody, so none is missed."""
        keys = row.sequence.table.keys
        end = row.start + row.num_tokens
        for i in range(row.start // self._page_size, min(end // self._page_size, len(keys))):
            self._keys[keys[i].digest] = keys[i]
        if end // self._page_size < len(keys):
            self._unfinished.append(keys)

    def extend_match(self, sequence: Sequence, num_matched: int, most: int) -> int:
        """Leading blocks of `sequence` that are resident or computed in this step."""
        keys = sequence.table.keys
        most = min(most, len(keys))
        while num_matched < most and self._keys.get(keys[num_matched].digest) == keys[num_matched]:
            num_matched += 1
        return num_matched

    def is_pending(self, sequence: Sequence, num_matched: int, most: int) -> bool:
        """Some running sequence will compute the block after the match in a later step."""
        keys = sequence.table.keys
        if num_matched >= min(most, len(keys)):
            return False
        key = keys[num_matched]
        return any(
            num_matched < len(others) and others[num_matched] == key for others in self._unfinished
        )


def submit(sequence: Sequence, queues: Queues) -> None:
    """Puts a new sequence into the waiting queue."""
    queues.add_waiting(sequence)


def apply(plan: StepPlan, queues: Queues, store: Store) -> None:
    """Carries a plan out: pages, slots, queues and counts are then as the step will leave them.

    `plan` must come from `decide` on the very same state.

    Raises:
        InternalError: the plan does not fit the store.
    """
    for sequence in plan.preemptions:
        _leave_running(sequence, queues, store)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed = 0
        sequence.preemptions += 1
        queues.add_waiting(sequence)
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


def retire(sequence: Sequence, queues: Queues, store: Store) -> None:
    """Ends a sequence, whatever it is doing; its pages are free or cached at once.

    Steps in flight may still write to them: later steps run after these, so whoever gets a page
    next writes it afterwards. Does nothing when the sequence has ended already.
    """
    if sequence.status is SequenceStatus.RUNNING:
        _leave_running(sequence, queues, store)
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


def _leave_running(sequence: Sequence, queues: Queues, store: Store) -> None:
    assert sequence.slot is not None, "a running sequence has a slot"
    queues.remove_running(sequence)
    queues.free_slots.append(sequence.slot)
    sequence.slot = None
    store.release(sequence.table)


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
