"""One answer as text: a generator's token events through a detokenizer, ended by stop strings."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from helium_jax.errors import InternalError
from helium_jax.types import FinishReason, GenerateRequest, Generator, TokenLogprobs, Usage


class AnswerDetokenizer(Protocol):
    """Turns one answer's tokens into text as they come, ending it at a stop string."""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found: what follows is not part of the answer."""
        ...

    def push(self, token_ids: Sequence[int], /) -> str:
        """The text that is certain now and was not before."""
        ...

    def finish(self) -> str:
        """The rest of the text, once no more tokens come."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPiece:
    """What an answer gained.

    Attributes:
        text: whole characters that are certain now; may be empty.
        token_ids: the new ids.
        logprobs: one per new id, if asked for.
        usage: as far as it is known.
        finish_reason: on the last piece only: STOP or LENGTH.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    usage: Usage
    finish_reason: FinishReason | None = None


async def stream_answer(
    generator: Generator, request: GenerateRequest, detokenizer: AnswerDetokenizer
) -> AsyncGenerator[AnswerPiece, None]:
    """Runs one request; a stop string, or closing this early, ends the sequence in the engine.

    Args:
        generator: the token side.
        request: what to continue.
        detokenizer: a new one, which knows the stop strings.

    Raises:
        HeliumError: see `Generator.generate`.
        InternalError: the engine ended the request without an answer.
    """
    usage = Usage(prompt_tokens=len(request.token_ids), completion_tokens=0, kv_cached=0)
    num_tokens = 0
    events: Any = generator.generate(request)
    async with aclosing(events):
        async for event in events:
            num_tokens += len(event.token_ids)
            usage = replace(event.usage or usage, completion_tokens=num_tokens)
            text = detokenizer.push(event.token_ids)
            reason = event.finish_reason
            if reason is FinishReason.CANCELLED:
                raise InternalError("the engine cancelled a request without being asked to")
            if detokenizer.is_stopped:
                reason = FinishReason.STOP
            elif reason is not None:
                text += detokenizer.finish()
            yield AnswerPiece(
                text=text,
                token_ids=event.token_ids,
                logprobs=event.logprobs,
                usage=usage,
                finish_reason=reason,
            )
            if reason is not None:
                return
    raise InternalError("the engine ended a request without saying why")
