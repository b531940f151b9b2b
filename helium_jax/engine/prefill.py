"""Prompts in a step: what the decodes leave of its budget, shared among running and waiting."""

import heapq
from collections.abc import Iterable
from operator import itemgetter

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.admission_order import Place
from helium_jax.engine.preemption import headroom
from helium_jax.engine.sequence import Sequence, SequenceStatus, rank_of
from helium_jax.engine.step_plan import Admission, Row
from helium_jax.kvstore.prefix_index import BlockKey
from helium_jax.kvstore.store import Store
from helium_jax.kvstore.trial import Trial


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


class Prefill:
    """Shares a step's room among prompts.

    Args:
        prompts: running sequences with more than one token to compute, in order of service.
        trial: pages after what was decided before.
        store: for matches only.
        config: limits.
        budget: tokens.
        num_running: sequences that run, `prompts` included.

    Attributes:
        admissions: who starts to run, in order.
        refused: the waiting sequence that ended admission for lack of a slot or of pages.
    """

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
        self.refused: Sequence | None = None
        self._prompts = dict.fromkeys(prompts)  # running and not served yet, in order of service
        self._trial = trial
        self._store = store
        self._config = config
        self._budget = budget
        self._num_running = num_running
        self._chunks: list[Row] = []
        self._last_may_shrink = True
        self._computed: dict[bytes, BlockKey] = {}  # blocks that this step completes, by digest

    def run(self, waiting: Iterable[Place], num_slots: int) -> None:
        """Serves running and waiting sequences in order of service until the budget is spent.

        The first waiting one that lacks a slot or pages ends admission: nobody is overtaken for
        being long.
        """
        running = [(rank_of(sequence), sequence) for sequence in self._prompts]
        for _, sequence in heapq.merge(running, waiting, key=itemgetter(0)):
            if self._budget == 0:
                return
            if sequence.status is SequenceStatus.RUNNING:
                if sequence in self._prompts:
                    self._serve(sequence, sequence.num_computed)
            elif not self._admit(sequence, num_slots):
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

    def _admit(self, sequence: Sequence, num_slots: int) -> bool:
        """Admits a waiting sequence; False if it must wait, and all behind it."""
        if sequence.num_in_flight:
            return False  # preempted a moment ago; its last token is not known yet
        if len(self.admissions) == num_slots:
            self.refused = sequence
            return False
        page_size = self._store.page_size
        known, most = len(sequence.token_ids), sequence.num_shareable_blocks(page_size)
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
        if left < headroom(sequence, self._num_running, self._config):
            self.refused = sequence
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
