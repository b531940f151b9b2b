"""Runs the sequences of one request side by side and gives back their text, piece by piece."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from helium_jax.errors import HeliumError, InternalError
from helium_jax.server.replies import HeliumUsage, PromptDetails, UsageReply
from helium_jax.telemetry.metrics import Metrics
from helium_jax.text import Detokenizer
from helium_jax.types import (
    FinishReason,
    GenerateRequest,
    Generator,
    TokenEvent,
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
        usage: so far, this piece included.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None


class Pieces:
    """The pieces of all sequences in the order in which they came."""

    def __init__(self, num_sequences: int) -> None:
        self._num_unfinished = num_sequences
        self._queue: asyncio.Queue[Piece | HeliumError] = asyncio.Queue()

    @property
    def is_finished(self) -> bool:
        """Every sequence's last piece was taken."""
        return self._num_unfinished == 0

    def put(self, item: Piece | HeliumError) -> None:
        """Adds what a sequence gained, or why it failed."""
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
) -> AsyncIterator[Pieces]:
    """Starts all sequences; those unfinished at the end of the context are cancelled.

    Args:
        generator: runs them.
        requests: one per sequence.
        make_detokenizer: called once per sequence; its stop strings end the sequence.
        metrics: gains latencies and token counts.
        started: the event loop's time at which the request arrived.
    """
    pieces = Pieces(len(requests))
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
        events = generator.generate(request)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            await _pump(events, request, index, detokenizer, metrics, started, pieces)
    except HeliumError as error:
        pieces.put(error)
    except Exception as error:
        log.exception("a sequence failed", extra={"request_id": request.request_id})
        pieces.put(InternalError(f"a bug in helium-jax ({type(error).__name__})"))


async def _pump(
    events: AsyncIterator[TokenEvent],
    request: GenerateRequest,
    index: int,
    detokenizer: Detokenizer,
    metrics: Metrics,
    started: float,
    pieces: Pieces,
) -> None:
    """Turns events into pieces until the sequence or a stop string ends it."""
    now = asyncio.get_running_loop().time
    usage = Usage(prompt_tokens=len(request.token_ids), completion_tokens=0, kv_cached=0)
    num_tokens = 0
    first = last = started
    async for event in events:
        time = now()
        if event.usage is not None:
            usage = event.usage
        if event.token_ids:
            if num_tokens == 0:
                first = time
                metrics.observe("time_to_first_token_seconds", time - started)
            else:
                metrics.observe("inter_token_latency_seconds", (time - last) / len(event.token_ids))
            last = time
        num_tokens += len(event.token_ids)
        gained = detokenizer.push(event.token_ids)
        reason: str | None = event.finish_reason
        if detokenizer.is_stopped:
            reason = FinishReason.STOP
        elif reason is not None:
            gained += detokenizer.finish()
        if reason == FinishReason.CANCELLED:
            raise InternalError("the engine cancelled the request without being asked to")
        piece = Piece(
            index=index,
            text=gained,
            token_ids=event.token_ids,
            logprobs=event.logprobs,
            finish_reason=reason,
            usage=replace(usage, completion_tokens=num_tokens),
        )
        if reason is not None:
            metrics.observe("request_decode_time_seconds", last - first)
            metrics.observe("e2e_request_latency_seconds", time - started)
            metrics.count("request_success_total", finished_reason=reason)
            metrics.count("generation_tokens_total", num_tokens)
        pieces.put(piece)
        if reason is not None:
            return
    raise InternalError("the engine ended a request without saying why")


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
