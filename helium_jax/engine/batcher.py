"""The batcher: decides what the next step computes, and carries the decision out on the store.

`decide` is pure. The loop calls, in this order and with nothing else in between: `decide`,
`apply`, packing and dispatch of the step; then reads results, `accept`s each token and `retire`s
what has ended. Waiting sequences join by `submit` and leave by `retire` at any time outside that.
"""

import heapq
import math
from collections.abc import Sequence as Indexable
from dataclasses import dataclass
from typing import NamedTuple

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.sequence import Queues, Sequence, SequenceStatus, rank_of
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
        growth: running sequences that need more pages, and how many each.
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

    The one place where prompts are cut. All the room is used: so a step with room left finishes
    every prompt it touches, and a waiting sequence that is looked at then can only lack blocks
    that nobody is computing.
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

    Decodes get their token first; then prompts, running and waiting alike, share the rest of the
    budget in order of service. When pages run out, the last in order of service are preempted, and
    nobody is admitted in that step.
    """
    trial = store.trial()
    decodes, prompts = _split_running(queues.running)
    growth, preemptions = _find_pages(queues, decodes, trial, store.page_size)
    if preemptions:
        gone = set(preemptions)
        decodes = [row for row in decodes if row.sequence not in gone]
        prompts = [sequence for sequence in prompts if sequence not in gone]
    budget = config.max_num_batched_tokens - len(decodes)
    prefill = _Prefill(prompts, trial, store, config, budget, len(queues.running))
    if preemptions:
        prefill.run(waiting=(), num_slots=0)
    else:
        prefill.run(waiting=queues.waiting, num_slots=len(queues.free_slots))
    chunks = prefill.trimmed_chunks(len(decodes))
    if len(chunks) > 1:
        chunks.sort(key=lambda row: (row.sequence.prefix_order, row.sequence.arrival))
    return StepPlan(
        preemptions=tuple(preemptions),
        growth=tuple(growth),
        admissions=tuple(prefill.admissions),
        rows=(*decodes, *chunks),
        num_tokens=len(decodes) + sum(row.num_tokens for row in chunks),
    )


def _split_running(running: list[Sequence]) -> tuple[list[Row], list[Sequence]]:
    """Rows of the sequences that go on by one token, and the sequences with more to compute, in
    order of service. A sequence whose last tokens are all in flight is in neither."""
    decodes: list[Row] = []
    prompts: list[Sequence] = []
    for sequence in running:
        known = len(sequence.token_ids) + sequence.num_in_flight
        computed = sequence.num_computed
        if known >= sequence.limit:
            continue
        if computed + 1 == known and not sequence.is_warm:
            decodes.append(Row(sequence, computed, 1, True))
        elif computed < known:
            prompts.append(sequence)
    prompts.sort(key=rank_of)
    return decodes, prompts


def _find_pages(
    queues: Queues, decodes: list[Row], trial: Trial, page_size: int
) -> tuple[list[tuple[Sequence, int]], list[Sequence]]:
    """Pages that decodes grow by, and who must be preempted to have them. (Prompts got theirs at
    admission.)"""
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
    served = sorted(queues.running, key=rank_of)
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


class _Prefill:
    """Shares what the decodes leave of a step's budget among prompts."""

    def __init__(
        self,
        prompts: list[Sequence],
        trial: Trial,
        store: Store,
        config: ResolvedEngineConfig,
        budget: int,
        num_running: int,
    ) -> None:
        self.admissions: list[Admission] = []
        self._prompts = dict.fromkeys(prompts)  # running and not served yet, in order of service
        self._trial = trial
        self._store = store
        self._config = config
        self._budget = budget
        self._num_running = num_running
        self._chunks: list[Row] = []
        self._last_may_shrink = True
        self._computed: dict[bytes, BlockKey] = {}  # blocks that this step completes, by digest

    def run(self, waiting: Indexable[Sequence], num_slots: int) -> None:
        """Serves running and waiting sequences in order of service until the budget is spent.

        The first waiting one that lacks a slot or pages ends admission: nobody is overtaken for
        being long.
        """
        for sequence in heapq.merge(tuple(self._prompts), waiting, key=rank_of):
            if self._budget == 0:
                return
            if sequence.status is SequenceStatus.RUNNING:
                if sequence in self._prompts:
                    self._serve(sequence, sequence.num_computed)
            elif len(self.admissions) == num_slots or not self._admit(sequence):
                break
        for sequence in tuple(self._prompts):
            if self._budget == 0:
                return
            self._serve(sequence, sequence.num_computed)

    def trimmed_chunks(self, num_decodes: int) -> list[Row]:
        """The chunks, the last of them cut where that saves a bucket."""
        chunks = self._chunks
        # Nobody counts on the blocks that the chunk served last completes.
        if chunks and self._last_may_shrink:
            num_tokens = num_decodes + sum(row.num_tokens for row in chunks)
            last = chunks[-1]
            excess = trim_to_bucket(num_tokens, last.num_tokens, self._config.token_buckets)
            if excess:
                chunks[-1] = last._replace(num_tokens=last.num_tokens - excess, samples=False)
        return chunks

    def _serve(self, sequence: Sequence, start: int) -> None:
        """Gives a sequence its chunk."""
        self._prompts.pop(sequence, None)
        known = sequence.num_known
        num_tokens = choose_chunk(known - start, self._budget)
        end = start + num_tokens
        self._budget -= num_tokens
        self._chunks.append(Row(sequence, start, num_tokens, end == known and not sequence.is_warm))
        self._last_may_shrink = True
        keys, page_size = sequence.table.keys, self._store.page_size
        for key in keys[start // page_size : end // page_size]:
            self._computed[key.digest] = key

    def _admit(self, sequence: Sequence) -> bool:
        """Admits a waiting sequence; False if it must wait, and all behind it."""
        if sequence.num_in_flight:
            return False  # preempted a moment ago; its last token is not known yet
        page_size = self._store.page_size
        known = len(sequence.token_ids)
        # The last token is computed even when its block is resident: its logits are needed.
        most = (known if sequence.is_warm else known - 1) // page_size
        resident = self._store.match(sequence.table, most)
        num_matched = self._match_running(sequence.table.keys[:most], len(resident))
        if self._budget == 0:
            return False
        num_pages = -(-known // page_size) - num_matched
        trial = self._trial
        left = trial.num_available - trial.count_idle(resident, is_pinned=False) - num_pages
        if self._num_running == 0:
            # Pins give way to whoever would wait for ever, not to who only waits for its turn.
            left += trial.num_surrenderable - trial.count_idle(resident, is_pinned=True)
        if left < self._headroom(sequence):
            return False
        self._trial.attach(resident)
        self._trial.take(num_pages)
        self._num_running += 1
        self.admissions.append(Admission(sequence, num_matched, num_pages))
        start = num_matched * page_size
        if start < known:
            self._serve(sequence, start)
        else:
            self._last_may_shrink = False
        return True

    def _match_running(self, keys: list[BlockKey], num_matched: int) -> int:
        """Extends a match by blocks that this step computes.

        A running prompt that is about to compute the next block is served first, so that the block
        is not computed twice; should it need all the room, its follower waits.
        """
        while num_matched < len(keys) and self._budget:
            key = keys[num_matched]
            if self._computed.get(key.digest) == key:
                num_matched += 1
                continue
            for other in self._prompts:
                others = other.table.keys
                if num_matched < len(others) and others[num_matched] == key:
                    self._serve(other, other.num_computed)
                    break
            else:
                break
        return num_matched

    def _headroom(self, sequence: Sequence) -> int:
        """Pages that must be left after an admission, for the running ones to grow into.

        A sequence that was preempted returns only when everybody could grow by a page, lest it be
        preempted again at once. With nobody running there is nobody to grow.
        """
        if self._num_running == 0:
            return 0
        watermark = math.ceil(self._config.watermark * self._store.num_pages)
        return max(watermark, self._num_running) if sequence.preemptions else watermark


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
