"""The waist: the values and the one protocol that the plan side and the token side share.

Everything here is frozen, holds only builtin types and is safe to pass between threads. Nothing
here knows text (that is `helium_jax.text`), plans, pages or arrays.
"""

import enum
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


class FinishReason(enum.StrEnum):
    """Why a sequence ended. `STOP` covers end-of-sequence and stop token ids."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen; the defaults are greedy decoding.

    Attributes:
        max_tokens: most tokens to generate; None means up to the context length.
        min_tokens: end-of-sequence and stop token ids are impossible before this many tokens.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this probability, in (0, 1].
        min_p: drop tokens less likely than this fraction of the most likely one, in [0, 1].
        presence_penalty: subtracted once from the logit of every generated token, in [-2, 2].
        frequency_penalty: subtracted per occurrence among the generated tokens, in [-2, 2].
        repetition_penalty: divides positive, multiplies negative logits of every token of the
            prompt or output (arXiv 1909.05858), > 0; 1 is off.
        logit_bias: (token id, bias) pairs added to the logits, biases in [-100, 100].
        stop_token_ids: ids that end the sequence besides the model's end-of-sequence ids.
        ignore_eos: go on after the model's end-of-sequence ids.
        seed: of this request alone, in [0, 2**63); equal seeds give equal tokens whatever else is
            in the batch. None draws one.
        logprobs: None for none; otherwise the chosen token's and this many most likely
            alternatives', 0 to 20.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )

    @property
    def is_deterministic(self) -> bool:
        """Equal prompts give equal tokens (up to rounding, unless the engine is deterministic)."""
        return self.is_greedy or self.seed is not None


class GrammarState(Protocol):
    """One sequence's place in a grammar; after the request was sent it belongs to the engine.

    End-of-sequence ids are no part of a grammar: the engine allows them where it `is_accepting`.
    All of it may raise RequestError when the grammar turns out to be too complex to go on.
    """

    @property
    def is_accepting(self) -> bool:
        """The text so far is a whole one: the sequence may end here."""
        ...

    @property
    def is_finished(self) -> bool:
        """Nothing may follow: the sequence must end here."""
        ...

    def fill_mask(self, out: memoryview) -> None:
        """Writes the whole of `out`, bytes: bit i % 8 of byte i // 8 is set where token i may come
        next (as 32-bit words, bit i % 32 of little-endian word i // 32)."""
        ...

    def accept(self, token_id: int) -> None:
        """Takes in the next token; one that the mask does not allow raises RequestError."""
        ...


class TokenGrammar(Protocol):
    """What a sequence must look like, compiled for a vocabulary (`text.grammar`); safe to share
    between requests and threads."""

    @property
    def key(self) -> str:
        """Digest of the grammar and the vocabulary."""
        ...

    def start(self) -> GrammarState:
        """A new sequence's place: before its first generated token."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One sequence to continue.

    Attributes:
        request_id: unique among unfinished requests.
        token_ids: the prompt, at least one id, each in [0, vocab_size).
        sampling: how tokens are chosen.
        priority: lower runs sooner; equal priorities run first come, first served.
        cache_salt: sequences share KV pages only under equal salts.
        worker: index of the engine that must run it; None lets the pool choose.
        planned_next_use: order in which a plan will need this prompt's pages again; eviction
            takes the greatest first and pages without one before those. None says nothing, and
            leaves what was said of pages shared with others. `Generator.foresee` speaks of parts.
        prefer_cached: among waiting requests of equal priority that set it, the longest cached
            prefix is admitted first, looked up each step, and equal prefixes together. It takes
            the places of such requests in the queue only, and no request waits for ever.
        grammar: what the generated text must look like; None for anything. The sequence ends with
            `STOP` as soon as nothing may follow, and end-of-sequence ids are possible exactly
            where the grammar accepts; with `min_tokens` the grammar has the last word.
    """

    request_id: str
    token_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    priority: int = 0
    cache_salt: str = ""
    worker: int | None = None
    planned_next_use: int | None = None
    prefer_cached: bool = False
    grammar: TokenGrammar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUse:
    """What a plan knows of a prefix whose pages may be resident.

    Attributes:
        token_ids: the prefix; its full pages are meant.
        cache_salt: as in GenerateRequest.
        next_use: as `GenerateRequest.planned_next_use`; None: the plan needs it no more.
    """

    token_ids: tuple[int, ...]
    cache_salt: str = ""
    next_use: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities at one generated position, natural log, of the unmodified logits.

    Attributes:
        logprob: of the chosen token.
        top: (token id, logprob) of the most likely tokens, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one request cost, in tokens: `computed + kv_cached == prompt_tokens` always.

    Attributes:
        prompt_tokens: length of the prompt.
        completion_tokens: tokens generated, a closing end-of-sequence token included.
        kv_cached: prompt tokens whose KV was found in the store at first admission.
        recomputed: tokens computed once more after a preemption, prompt and output alike.
        preemptions: times the request was sent back to the queue for lack of pages.
    """

    prompt_tokens: int
    completion_tokens: int
    kv_cached: int
    recomputed: int = 0
    preemptions: int = 0

    @property
    def computed(self) -> int:
        return self.prompt_tokens - self.kv_cached


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """Tokens a request gained; the last event of a request has its finish reason and usage.

    Attributes:
        request_id: whose tokens.
        token_ids: the new ids, oldest first; may be empty on the last event.
        logprobs: one entry per new id when the request asked for them, else empty.
        finish_reason: set on the last event only.
        usage: set on the last event, and, as far as it is known by then, on the first event that
            carries tokens: who stops reading early (a stop string) must still know what of the
            prompt was cached.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPrefix:
    """A prefix whose KV pages are to be computed ahead of its first use.

    Attributes:
        token_ids: the prefix; only its full pages are kept.
        cache_salt: as in GenerateRequest.
        pin: keep its pages until `unpin`. A preference: a running request that would have to be
            preempted takes the least valuable pin's pages instead.
        value: of the pin, such as expected uses x tokens. A pin of less value gives way when the
            pin budget is spent; among equals the new one is refused in part.
        planned_next_use: as in GenerateRequest; what is computed ahead without one is evicted
            before anything a plan has spoken of.
        worker: as in GenerateRequest.
    """

    token_ids: tuple[int, ...]
    cache_salt: str = ""
    pin: bool = False
    value: float = 0.0
    planned_next_use: int | None = None
    worker: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReceipt:
    """What warming did, in tokens.

    Attributes:
        resident: tokens of the prefix whose KV is in the store now (full pages only).
        computed: of those, how many had to be computed for this call.
        pin_id: handle for `unpin`, unique over all workers; None when nothing was pinned.
        worker: where.
    """

    resident: int
    computed: int
    pin_id: int | None = None
    worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSnapshot:
    """The KV store at one moment: free + cached + used == num_pages always.

    Attributes:
        page_size: tokens per page.
        num_pages: pages of the pool.
        num_free: pages that hold nothing.
        num_cached: pages that hold reusable blocks and that no running sequence reads.
        num_used: pages that running sequences read or write.
        num_pinned: of cached and used, pages that eviction takes last.
        queried_tokens: prompt tokens looked up since start.
        hit_tokens: of those, found.
        evicted_pages: pages that lost a reusable block since start.
        evicted_then_needed_tokens: tokens computed although they had been in the store once.
        surrendered_pins: pins given up since start, for a running request or a better pin.
    """

    page_size: int
    num_pages: int
    num_free: int
    num_cached: int
    num_used: int
    num_pinned: int = 0
    queried_tokens: int = 0
    hit_tokens: int = 0
    evicted_pages: int = 0
    evicted_then_needed_tokens: int = 0
    surrendered_pins: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrefix:
    """A stretch of the prefix tree: pages that follow each other, up to where prompts part.

    Attributes:
        parent: index of the stretch before it among those of the map; None at a root.
        num_pages: of the stretch.
        num_below: pages of everything behind it.
        num_readers: running sequences that read its first page.
        num_pinned: of its pages, those that are pinned.
        token_ids: its first tokens; empty where they are not for the asker's eyes.
    """

    parent: int | None
    num_pages: int
    num_below: int = 0
    num_readers: int = 0
    num_pinned: int = 0
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMap:
    """Every page of one worker's KV store and the tree of what they hold, within bounds.

    Attributes:
        worker: whose.
        page_size: tokens per page.
        pages_per_cell: pages that one letter of `cells` stands for; the busiest of them counts.
        cells: a letter per cell in the order of page ids: "f" free, "c" cached and read by nobody,
            "p" private to one sequence, "s" shared by several; a capital where it is pinned.
        prefixes: the largest stretches, each after its parent.
        num_folded: pages of stretches that are left out.
    """

    worker: int
    page_size: int
    pages_per_cell: int
    cells: str
    prefixes: tuple[CachedPrefix, ...] = ()
    num_folded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the world above needs to know of the model behind a `Generator`.

    Attributes:
        name: as served.
        vocab_size: token ids are below it.
        max_model_len: most tokens of prompt plus output.
        max_num_seqs: most sequences of one step of a worker.
        max_num_batched_tokens: most tokens of one step of a worker.
        eos_token_ids: ids that end a sequence unless ignored.
        num_workers: engines behind the generator.
        deterministic: equal requests give equal tokens bit for bit.
        version: digest of the weights and config, and the numerics they run in (dtypes,
            quantization); part of every cache key.
        speed_class: digest of the architecture and of what it runs on and in: engines that agree
            in it, and in the sizes of their steps, are equally fast whatever their weights.
    """

    name: str
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int = 512
    eos_token_ids: frozenset[int] = field(default_factory=frozenset)
    num_workers: int = 1
    deterministic: bool = False
    version: str = ""
    speed_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """Progress and load of one engine at one moment; counters grow from its start.

    Attributes:
        num_waiting: requests not yet admitted.
        num_running: sequences holding pages.
        num_steps: steps finished.
        num_prefill_tokens: prompt tokens computed.
        num_decode_tokens: tokens generated.
        num_padded_tokens: rows computed only to fill a bucket.
        num_preemptions: sequences sent back for lack of pages.
        num_compiles_after_warmup: programs compiled by a request instead of at start; stays 0.
        host_seconds: spent deciding, packing and committing, outside the device call.
        device_seconds: spent waiting for the device.
        last_step_age_seconds: since the loop last went round; grows only if it hangs.
        cache: the KV store.
        is_alive: False once the engine has failed for good; the rest is its last word then.
    """

    num_waiting: int
    num_running: int
    num_steps: int
    num_prefill_tokens: int
    num_decode_tokens: int
    num_padded_tokens: int
    num_preemptions: int
    num_compiles_after_warmup: int
    host_seconds: float
    device_seconds: float
    last_step_age_seconds: float
    cache: CacheSnapshot
    is_alive: bool = True


@runtime_checkable
class Embeds(Protocol):
    """What a `Generator` may also be: it says what a text is like, as a vector of length one."""

    @property
    def embedding_size(self) -> int:
        """Numbers of a vector."""
        ...

    async def embed(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """The mean of the last hidden states over a text's tokens, divided by its length.

        It does not depend on what else runs. Running sequences go on between two texts.

        Raises:
            RequestError: no tokens, more than the context holds, ids out of range.
            CapacityError: too many texts wait, or the engine is shutting down.
            InternalError: as in `Generator.generate`.
        """
        ...


class Generator(Protocol):
    """Runs requests: the token side as the plan side and the server see it.

    All methods belong to one asyncio event loop and never block it.
    """

    @property
    def info(self) -> ModelInfo: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Streams a request's events; closing the iterator early cancels the request.

        Raises (at the first step of iteration):
            RequestError: token ids out of range, empty prompt, prompt longer than the context or
                the pool, parameter out of range.
            CapacityError: the queue is full, or the engine is shutting down.
            InternalError: the engine failed. Code "worker_failed": one worker of several died, and
                the same request with another `worker` or none may succeed at once.
        """
        ...

    async def warm(self, prefix: WarmPrefix) -> WarmReceipt:
        """Computes a prefix's KV if it is not resident, optionally pinning it."""
        ...

    async def unpin(self, pin_id: int) -> None:
        """Gives a pin back, also one that was surrendered; an unknown id raises RequestError."""
        ...

    async def foresee(self, uses: Sequence[PlannedUse], *, worker: int | None = None) -> None:
        """Replaces what is known of the next use of resident pages, of those that `uses` cover.

        Of equal prefixes the last one counts; a page that different ones cover gets the nearest
        use. Hints on pages that are not
        resident are dropped, and any hint that nobody renews expires after many evictions: a plan
        clears its hints (`next_use=None`) when the last consumer is done. Returns at once; what
        is submitted afterwards finds it done.

        Args:
            uses: prefixes, in any order.
            worker: whose store; None: every worker's.
        """
        ...

    async def reset_cache(self, *, worker: int | None = None) -> int:
        """Forgets every reusable block that nobody reads or pins, on one worker or all; returns
        the pages freed."""
        ...

    async def cache_map(self, *, salts: Collection[str] | None) -> tuple[CacheMap, ...]:
        """What every living worker's pages hold, taken between two steps.

        Args:
            salts: tokens are told of prefixes under these cache salts alone; None: of all.
        """
        ...

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """One entry per worker."""
        ...
