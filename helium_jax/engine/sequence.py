"""The record of one sequence, and the loop's queues of them."""

import enum
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from helium_jax.config import ResolvedEngineConfig
from helium_jax.kvstore.page_table import PageTable
from helium_jax.kvstore.store import Store
from helium_jax.types import GenerateRequest, Usage


class SequenceStatus(enum.Enum):
    """Where a sequence is; a preempted one waits again."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One sequence from submission to its end. Belongs to the loop, which changes it through the
    functions of `transitions` only.

    A sequence has known tokens and computed tokens, and steps make the second catch up with the
    first. Known are `token_ids` and one more for each step in flight that samples for it: its id
    is still on the device, where the next step finds it.

    Attributes:
        request: what was asked for.
        arrival: position in the order of submission; unique.
        table: its pages.
        limit: most tokens of prompt plus output: by max_tokens, context and pool.
        is_warm: only its KV is wanted: nothing is sampled.
        token_ids: prompt and generated tokens whose ids the host knows.
        num_prompt: prompt tokens.
        status: waiting, running or finished.
        slot: row of the device's token buffer while it runs.
        num_computed: leading tokens whose KV is in its pages, or will be once the steps
            dispatched so far are done.
        num_in_flight: steps that sample for it and whose result has not been read.
        kv_cached: prompt tokens found in the store at first admission; None before it.
        most_computed: largest `num_computed` it ever had.
        recomputed: tokens computed once more after preemptions.
        preemptions: times it lost its pages.
        displaceable_from: known tokens from which on a higher priority may displace it (again).
        num_overtaken: later requests of its priority that were admitted before it.
        prefix_order: sorts sequences with common leading blocks next to each other.
    """

    request: GenerateRequest
    arrival: int
    table: PageTable
    limit: int
    is_warm: bool
    token_ids: list[int]
    num_prompt: int
    status: SequenceStatus = SequenceStatus.WAITING
    slot: int | None = None
    num_computed: int = 0
    num_in_flight: int = 0
    kv_cached: int | None = None
    most_computed: int = 0
    recomputed: int = 0
    preemptions: int = 0
    displaceable_from: int = 0
    num_overtaken: int = 0
    prefix_order: bytes = b""

    @property
    def pages(self) -> list[int]:
        """Page ids: token i lies in `pages[i // page_size]`."""
        return self.table.pages

    @property
    def num_known(self) -> int:
        return len(self.token_ids) + self.num_in_flight

    @property
    def num_generated(self) -> int:
        """Generated tokens whose ids the host knows."""
        return len(self.token_ids) - self.num_prompt

    @property
    def is_at_limit(self) -> bool:
        """The host has read all the tokens that this sequence may have."""
        return len(self.token_ids) >= self.limit

    @property
    def is_warmed(self) -> bool:
        """All steps a warm sequence needs have been planned."""
        return self.is_warm and self.num_computed == len(self.token_ids)

    def num_shareable_blocks(self, page_size: int) -> int:
        """Most leading blocks that it can read instead of computing them.

        The last token is computed even when its block is resident: its logits are needed.
        """
        return (len(self.token_ids) - (not self.is_warm)) // page_size

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.num_prompt,
            completion_tokens=self.num_generated,
            kv_cached=self.kv_cached or 0,
            recomputed=self.recomputed,
            preemptions=self.preemptions,
        )


def rank_of(sequence: Sequence) -> tuple[int, int]:
    """Order of service: lower priority value first, then first come."""
    return (sequence.request.priority, sequence.arrival)


def longest_sequence(config: ResolvedEngineConfig) -> int:
    """Most tokens of prompt plus output that context and pool allow. The last token of a sequence
    is never computed, so it needs no place in a page."""
    return min(config.max_model_len, config.num_pages * config.page_size + 1)


def can_ever_run(num_prompt: int, config: ResolvedEngineConfig) -> bool:
    """A prompt of this length can be admitted and leaves room for one token of output."""
    return 0 < num_prompt < longest_sequence(config)


def new_sequence(
    request: GenerateRequest,
    *,
    arrival: int,
    store: Store,
    config: ResolvedEngineConfig,
    is_warm: bool = False,
) -> Sequence:
    """The record of a request that `can_ever_run`; hashes its blocks, takes no pages.

    A warm sequence is cut to its full blocks; one without any is `is_warmed` from the start.
    """
    token_ids = list(request.token_ids)
    if is_warm:
        del token_ids[len(token_ids) // config.page_size * config.page_size :]
    limit = longest_sequence(config)
    if is_warm:
        limit = len(token_ids) + 1
    elif request.sampling.max_tokens is not None:
        limit = min(limit, len(token_ids) + request.sampling.max_tokens)
    table = store.open_table(salt=request.cache_salt, next_use=request.planned_next_use)
    store.extend_keys(table, token_ids)
    return Sequence(
        request=request,
        arrival=arrival,
        table=table,
        limit=limit,
        is_warm=is_warm,
        token_ids=token_ids,
        num_prompt=len(token_ids),
        # Depth-first order of the prefix tree; 4 bytes of a hash tell neighbours apart well
        # enough, and a clash costs only a less lucky order.
        prefix_order=b"".join(key.digest[:4] for key in table.keys),
    )


@dataclass(slots=True, eq=False, kw_only=True)
class Queues:
    """Unfinished sequences; changed by the functions of `transitions` only.

    Attributes:
        waiting: in order of service.
        running: those with pages and a slot, in prefix order.
        free_slots: rows of the token buffer that nobody has.
        num_waiting_tokens: prompt tokens of the waiting ones.
    """

    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    free_slots: list[int]
    num_waiting_tokens: int = 0

    def add_waiting(self, sequence: Sequence) -> None:
        self.num_waiting_tokens += sequence.num_prompt
        insort(self.waiting, sequence, key=rank_of)

    def remove_waiting(self, sequence: Sequence) -> None:
        self.num_waiting_tokens -= sequence.num_prompt
        del self.waiting[bisect_left(self.waiting, rank_of(sequence), key=rank_of)]

    def add_running(self, sequence: Sequence) -> None:
        insort(self.running, sequence, key=_place)

    def remove_running(self, sequence: Sequence) -> None:
        del self.running[bisect_left(self.running, _place(sequence), key=_place)]


def _place(sequence: Sequence) -> tuple[bytes, int]:
    return (sequence.prefix_order, sequence.arrival)


def make_queues(config: ResolvedEngineConfig) -> Queues:
    """Empty queues with `max_num_seqs` slots."""
    return Queues(free_slots=list(range(config.max_num_seqs - 1, -1, -1)))
