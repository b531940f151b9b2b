"""A `types.Generator` without a model: answers are a hash of the prompt."""

import asyncio
import hashlib
import itertools
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

from helium_jax.errors import HeliumError, InternalError, RequestError
from helium_jax.testing.text import FAKE_EOS_ID, FAKE_VOCAB_SIZE
from helium_jax.testing.worker import FakeWorker
from helium_jax.types import (
    CacheMap,
    EngineStatistics,
    FinishReason,
    GenerateRequest,
    GrammarState,
    ModelInfo,
    PlannedUse,
    SamplingParams,
    TokenEvent,
    TokenGrammar,
    TokenLogprobs,
    Usage,
    WarmPrefix,
    WarmReceipt,
)

FAKE_MODEL = ModelInfo(
    name="fake",
    vocab_size=FAKE_VOCAB_SIZE,
    max_model_len=4096,
    max_num_seqs=32,
    eos_token_ids=frozenset({FAKE_EOS_ID}),
    deterministic=True,
    version="fake-1",
)
_CLOSING = frozenset(b'"}]')
LOWER_CASE = tuple(range(ord("a"), ord("z") + 1))


class FakeGenerator:
    """A `types.Generator` whose answers are a hash of the request; belongs to one event loop.

    Attributes:
        requests: every request that was started, in order.
        finished: ids of requests that ran to their end, in order.
        cancelled: ids of requests whose iterator was closed early, in order.
        failed: ids of requests that ended with an error, in order.
        running: ids of requests that hold the generator now.
        max_running: most requests that ran at the same moment.
        worker_of: index of the worker that got a request, by request id.
        warmed: every prefix that was warmed, in order.
        foreseen: every planned use that was told, in order, with the worker it was told.
    """

    def __init__(
        self,
        *,
        info: ModelInfo = FAKE_MODEL,
        alphabet: Sequence[int] = LOWER_CASE,
        max_answer_tokens: int = 12,
        reply: Callable[[GenerateRequest], Sequence[int] | None] | None = None,
        before_event: Callable[[GenerateRequest, int], Awaitable[None]] | None = None,
        failures: Mapping[str, HeliumError] | None = None,
        fail: Callable[[GenerateRequest, int], HeliumError | None] | None = None,
        tokens_per_event: int = 1,
        page_size: int = 16,
        prefix_caching: bool = True,
        seed: int = 0,
    ) -> None:
        """
        Args:
            info: what the generator says of its model; also its limits. Each of its
                `num_workers` has an imagined KV store of its own.
            alphabet: ids that answers are made of.
            max_answer_tokens: answers end by themselves after 1 to this many tokens.
            reply: the answer's ids without end-of-sequence, or None for the hash.
            before_event: awaited before each event with the number of tokens already sent:
                latency, gates and orders of completion are made here. By default every event
                yields once to the loop.
            failures: errors by request id, raised at the first step of iteration.
            fail: asked before each event with the number of tokens already sent; raises what it
                returns.
            tokens_per_event: ids in one event.
            page_size: granularity of the imagined KV store.
            prefix_caching: whether `usage.kv_cached` counts full pages seen before.
            seed: of the draws for sampled requests without a seed of their own.
        """
        self._info = info
        self._alphabet = tuple(alphabet)
        self._max_answer_tokens = max_answer_tokens
        self._reply = reply
        self._before_event = before_event
        self._failures = dict(failures or {})
        self._fail = fail
        self._tokens_per_event = tokens_per_event
        self._draws = random.Random(seed)
        self._workers = [
            FakeWorker(page_size=page_size, prefix_caching=prefix_caching)
            for _ in range(info.num_workers)
        ]
        self._pins: dict[int, WarmPrefix] = {}
        self._pin_ids = itertools.count(1)
        self.requests: list[GenerateRequest] = []
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.failed: list[str] = []
        self.running: set[str] = set()
        self.max_running = 0
        self.worker_of: dict[str, int] = {}
        self.warmed: list[WarmPrefix] = []
        self.foreseen: list[tuple[int | None, PlannedUse]] = []

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Streams the answer; see `types.Generator.generate`."""
        self._start(request)
        ended = self.cancelled  # unless we get to say otherwise, the caller closed the iterator
        try:
            if request.request_id in self._failures:
                raise self._failures[request.request_id]
            self._check(request)
            worker = self._place(request)
            kv_cached = worker.lookup(request.cache_salt, request.token_ids)
            answer, reason = self.answer(request)
            chunks = [
                answer[start : start + self._tokens_per_event]
                for start in range(0, len(answer), self._tokens_per_event)
            ]
            num_sent = 0
            for chunk in chunks:
                await self._wait(request, num_sent)
                if not worker.is_alive:
                    raise self._worker_failed(self.worker_of[request.request_id])
                num_sent += len(chunk)
                worker.decode_tokens += len(chunk)
                is_last = num_sent == len(answer)
                usage = Usage(
                    prompt_tokens=len(request.token_ids),
                    completion_tokens=num_sent,
                    kv_cached=kv_cached,
                )
                if is_last:
                    ended = self.finished
                yield TokenEvent(
                    request_id=request.request_id,
                    token_ids=chunk,
                    logprobs=self._logprobs(request, chunk),
                    finish_reason=reason if is_last else None,
                    usage=usage if is_last or num_sent == len(chunk) else None,
                )
        except HeliumError:
            ended = self.failed
            raise
        finally:
            self.running.discard(request.request_id)
            for worker in self._workers:
                worker.running.discard(request.request_id)
            ended.append(request.request_id)

    def answer(self, request: GenerateRequest) -> tuple[tuple[int, ...], FinishReason]:
        """The ids that `request` gets, its closing id included, and why they end.

        The same for equal requests, except that a sampled request without a seed gets a fresh
        draw at every call.
        """
        sampling = request.sampling
        digest = self._digest(request)
        given = self._reply(request) if self._reply is not None else None
        if request.grammar is not None:
            return self._answer_in(request.grammar, request, digest, given or ())
        if given is None:
            length = 1 + digest[0] % self._max_answer_tokens
            given = [self._alphabet[_word(digest, i) % len(self._alphabet)] for i in range(length)]
        room = self._info.max_model_len - len(request.token_ids)
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        eos = min(self._info.eos_token_ids, default=None)
        answer: list[int] = []
        while len(answer) < limit:
            index = len(answer)
            may_end = len(answer) >= sampling.min_tokens
            if index < len(given):
                token_id = given[index]
            elif eos is not None and may_end and not sampling.ignore_eos:
                return (*answer, eos), FinishReason.STOP
            else:  # not allowed to end: go on with the hash
                token_id = self._alphabet[_word(digest, index) % len(self._alphabet)]
            answer.append(token_id)
            if token_id in sampling.stop_token_ids and may_end:
                return tuple(answer), FinishReason.STOP
        return tuple(answer), FinishReason.LENGTH

    def _answer_in(
        self, grammar: TokenGrammar, request: GenerateRequest, digest: bytes, given: Sequence[int]
    ) -> tuple[tuple[int, ...], FinishReason]:
        """An answer of a grammar: `given` as far as it is allowed, then what the hash chooses; it
        prefers to end, and to close what JSON opens."""
        limit = self._info.max_model_len - len(request.token_ids)
        limit = min(limit, request.sampling.max_tokens or limit)
        eos = min(self._info.eos_token_ids, default=None)
        state = grammar.start()
        answer: list[int] = []
        while len(answer) < limit and not state.is_finished:
            allowed = _allowed(state, self._info.vocab_size)
            wanted = given[len(answer)] if len(answer) < len(given) else None
            if wanted not in allowed:
                if state.is_accepting and eos is not None:
                    return (*answer, eos), FinishReason.STOP
                closing = [i for i in allowed if i in _CLOSING]
                choices = closing or allowed
                wanted = choices[_word(digest, len(answer)) % len(choices)]
            answer.append(wanted)
            state.accept(wanted)
        return tuple(answer), FinishReason.STOP if state.is_finished else FinishReason.LENGTH

    async def warm(self, prefix: WarmPrefix) -> WarmReceipt:
        """Remembers a prefix's full pages as if their KV had been computed."""
        self.warmed.append(prefix)
        index = self._choose_worker(prefix.worker)
        worker = self._workers[index]
        resident, computed = worker.warm(prefix.cache_salt, prefix.token_ids)
        pin_id = None
        if prefix.pin and resident:
            pin_id = next(self._pin_ids)
            self._pins[pin_id] = prefix
        return WarmReceipt(resident=resident, computed=computed, pin_id=pin_id, worker=index)

    @property
    def embedding_size(self) -> int:
        """Numbers of a vector."""
        return 8

    async def embed(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """A vector of length one that depends on how often each id occurs."""
        await asyncio.sleep(0)
        counts = [0.0] * self.embedding_size
        for token_id in token_ids:
            counts[token_id % self.embedding_size] += 1.0
        length = math.hypot(*counts)
        return tuple(count / length for count in counts)

    async def unpin(self, pin_id: int) -> None:
        """Gives a pin back.

        Raises:
            RequestError: there is no such pin.
        """
        if self._pins.pop(pin_id, None) is None:
            raise RequestError(f"{pin_id=} is not pinned; pins are {[*self._pins]}")

    async def foresee(self, uses: Sequence[PlannedUse], *, worker: int | None = None) -> None:
        """Notes what was told; an imagined store evicts nothing."""
        if worker is not None:
            self._choose_worker(worker)
        self.foreseen += [(worker, use) for use in uses]

    async def reset_cache(self, *, worker: int | None = None) -> int:
        """Forgets every page; returns how many there were."""
        chosen = self._workers if worker is None else [self._workers[self._choose_worker(worker)]]
        return sum(each.reset() for each in chosen)

    async def cache_map(self, *, salts: Collection[str] | None) -> tuple[CacheMap, ...]:
        """The imagined pages of every living worker."""
        living = [(i, worker) for i, worker in enumerate(self._workers) if worker.is_alive]
        return tuple(worker.draw(index, salts) for index, worker in living)

    def kill(self, worker: int) -> None:
        """From now on whatever runs on this worker, or is sent to it, fails as "worker_failed"."""
        self._workers[worker].is_alive = False

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """One entry per worker: what was computed, and an imagined store without a limit."""
        return tuple(worker.statistics() for worker in self._workers)

    def _start(self, request: GenerateRequest) -> None:
        if request.request_id in self.running:
            raise RequestError(
                f"request_id={request.request_id!r} is still running; choose another"
            )
        self.requests.append(request)
        self.running.add(request.request_id)
        self.max_running = max(self.max_running, len(self.running))

    def _check(self, request: GenerateRequest) -> None:
        ids, info = request.token_ids, self._info
        if not ids:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        for token_id in ids:
            if not 0 <= token_id < info.vocab_size:
                raise RequestError(f"{token_id=} is not in [0, {info.vocab_size})", param="prompt")
        needed = len(ids) + (request.sampling.max_tokens or 1)
        if needed > info.max_model_len:
            raise RequestError(
                f"prompt of {len(ids)} tokens plus max_tokens={request.sampling.max_tokens} "
                f"exceeds the context of {info.max_model_len}; shorten the prompt",
                code="context_length_exceeded",
                param="prompt",
            )

    def _place(self, request: GenerateRequest) -> FakeWorker:
        index = self._choose_worker(request.worker)
        self.worker_of[request.request_id] = index
        worker = self._workers[index]
        worker.running.add(request.request_id)
        return worker

    def _choose_worker(self, wanted: int | None) -> int:
        """The wanted worker, or the one with the fewest requests among the living."""
        if wanted is None:
            living = [i for i, worker in enumerate(self._workers) if worker.is_alive]
            if not living:
                raise self._worker_failed(0)
            return min(living, key=lambda i: len(self._workers[i].running))
        if not 0 <= wanted < len(self._workers):
            raise RequestError(
                f"worker={wanted} does not exist; workers are 0 to {len(self._workers) - 1}",
                param="worker",
            )
        if not self._workers[wanted].is_alive:
            raise self._worker_failed(wanted)
        return wanted

    def _worker_failed(self, index: int) -> InternalError:
        return InternalError(f"worker {index} failed", code="worker_failed")

    async def _wait(self, request: GenerateRequest, num_sent: int) -> None:
        if self._before_event is None:
            await asyncio.sleep(0)
        else:
            await self._before_event(request, num_sent)
        error = self._fail(request, num_sent) if self._fail is not None else None
        if error is not None:
            raise error

    def _digest(self, request: GenerateRequest) -> bytes:
        sampling = request.sampling
        draw: int | None = None
        if not sampling.is_greedy:
            draw = sampling.seed if sampling.seed is not None else self._draws.getrandbits(63)
        text = repr((request.token_ids, _logit_changes(sampling), draw))
        return hashlib.blake2b(text.encode()).digest()

    def _logprobs(
        self, request: GenerateRequest, chunk: tuple[int, ...]
    ) -> tuple[TokenLogprobs, ...]:
        num_top = request.sampling.logprobs
        if num_top is None:
            return ()
        entries = []
        for token_id in chunk:
            others = [i for i in self._alphabet if i != token_id]
            ranked = [token_id, *others][:num_top]
            top = tuple((i, -0.5 - rank) for rank, i in enumerate(ranked))
            entries.append(TokenLogprobs(logprob=-0.5, top=top))
        return tuple(entries)


def _allowed(state: GrammarState, vocab_size: int) -> list[int]:
    mask = bytearray(-(-vocab_size // 32) * 4)
    state.fill_mask(memoryview(mask))
    return [i for i in range(vocab_size) if mask[i // 8] >> i % 8 & 1]


def _logit_changes(sampling: SamplingParams) -> tuple[object, ...]:
    """The parameters that change which token is chosen, not where the answer ends."""
    penalties = (
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.repetition_penalty,
        sampling.logit_bias,
    )
    if sampling.is_greedy:
        return penalties
    return (*penalties, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)


def _word(digest: bytes, index: int) -> int:
    block = hashlib.blake2b(digest + index.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(block, "little")
