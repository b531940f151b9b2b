"""Runs the sequences of one request side by side and gives back their text, piece by piece."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from helium_jax.errors import HeliumError, InternalError
from helium_jax.server.openai.replies import HeliumUsage, PromptDetails, UsageReply
from helium_jax.telemetry.metrics import Metrics
from helium_jax.text import Detokenizer
from helium_jax.text.answer import AnswerPiece, stream_answer
from helium_jax.types import (
    GenerateRequest,
    Generator,
    TokenLogprobs,
    Usage,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one sequence gained.

    Attributes:
        index: of the sequence within its request.
        text: complete characters only; may be empty.
        token_ids: the new ids.
        logprobs: one per new id, if asked for.
        finish_reason: "stop" or "length" on a sequence's last piece.
        stopped_by: the stop string that ended the sequence, on its last piece.
        usage: so far, this piece included.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None
    stopped_by: str | None = None


class Pieces:
    """The pieces of all sequences in the order in which they came."""

    def __init__(self, num_sequences: int, on_begun: Callable[[int], None]) -> None:
        """`on_begun` is called with a sequence's index whenever it has gained tokens."""
        self._num_unfinished = num_sequences
        self._on_begun = on_begun
        self._queue: asyncio.Queue[Piece | HeliumError] = asyncio.Queue()

    @property
    def is_finished(self) -> bool:
        """Every sequence's last piece was taken."""
        return self._num_unfinished == 0

    def put(self, item: Piece | HeliumError) -> None:
        """Adds what a sequence gained, or why it failed."""
        if isinstance(item, Piece):
            self._on_begun(item.index)
        self._queue.put_nowait(item)

    async def next(self, timeout_s: float | None = None) -> Piece | None:
        """The next piece, or None if there is none for `timeout_s`.

        Raises:
            HeliumError: one of the sequences failed.
        """
        if self._queue.empty():
            try:
                async with asyncio.timeout(timeout_s):
                    item = await self._queue.get()
            except TimeoutError:
                return None
        else:
            item = self._queue.get_nowait()
        if isinstance(item, HeliumError):
            raise item
        if item.finish_reason is not None:
            self._num_unfinished -= 1
        return item


@contextlib.asynccontextmanager
async def run_sequences(
    generator: Generator,
    requests: Sequence[GenerateRequest],
    *,
    make_detokenizer: Callable[[], Detokenizer],
    metrics: Metrics,
    started: float,
    on_begun: Callable[[int], None],
) -> AsyncIterator[Pieces]:
    """Starts all sequences; those unfinished at the end of the context are cancelled.

    Args:
        generator: runs them.
        requests: one per sequence.
        make_detokenizer: called once per sequence; its stop strings end the sequence.
        metrics: gains latencies and token counts.
        started: the event loop's time at which the request arrived.
        on_begun: called with a sequence's index when it has left the queue, perhaps repeatedly.
    """
    pieces = Pieces(len(requests), on_begun)
    tasks = [
        asyncio.create_task(
            _run_one(generator, request, i, make_detokenizer(), metrics, started, pieces)
        )
        for i, request in enumerate(requests)
    ]
    try:
        yield pieces
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_one(
    generator: Generator,
    request: GenerateRequest,
    index: int,
    detokenizer: Detokenizer,
    metrics: Metrics,
    started: float,
    pieces: Pieces,
) -> None:
    try:
        answer = stream_answer(generator, request, detokenizer)
        async with contextlib.aclosing(answer):
            await _pump(answer, detokenizer, index, metrics, started, pieces)
    except HeliumError as error:
        pieces.put(error)
    except Exception as error:
        log.exception("a sequence failed", extra={"request_id": request.request_id})
        pieces.put(InternalError(f"a bug in helium-jax ({type(error).__name__})"))


async def _pump(
    answer: AsyncIterator[AnswerPiece],
    detokenizer: Detokenizer,
    index: int,
    metrics: Metrics,
    started: float,
    pieces: Pieces,
) -> None:
    """Hands an answer's pieces on and observes their latencies."""
    now = asyncio.get_running_loop().time
    first = last = None
    async for gained in answer:
        time = now()
        if gained.token_ids:
            if last is None:
                first = time
                metrics.observe("time_to_first_token_seconds", time - started)
            else:
                per_token = (time - last) / len(gained.token_ids)
                metrics.observe("inter_token_latency_seconds", per_token)
            last = time
        if gained.finish_reason is not None:
            decode_s = 0.0 if first is None or last is None else last - first
            metrics.observe("request_decode_time_seconds", decode_s)
            metrics.observe("e2e_request_latency_seconds", time - started)
            metrics.count("request_success_total", finished_reason=gained.finish_reason)
            metrics.count("generation_tokens_total", gained.usage.completion_tokens)
        pieces.put(
            Piece(
                index=index,
                text=gained.text,
                token_ids=gained.token_ids,
                logprobs=gained.logprobs,
                finish_reason=gained.finish_reason,
                stopped_by=detokenizer.stopped_by,
                usage=gained.usage,
            )
        )


def sum_usage(usages: Sequence[Usage], answers_per_prompt: int) -> UsageReply:
    """The usage of a request whose sequences are `answers_per_prompt` for each prompt.

    A prompt counts once, as the costliest of its answers paid for it: the others read what that
    one computed.
    """
    prompt_tokens = cached = 0
    for start in range(0, len(usages), answers_per_prompt):
        group = usages[start : start + answers_per_prompt]
        prompt_tokens += group[0].prompt_tokens
        cached += min(usage.kv_cached for usage in group)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return UsageReply(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
        helium=HeliumUsage(computed=prompt_tokens - cached, kv_cached=cached),
    )
