"""Pieces of text as OpenAI's older completions, whole and streamed."""

from collections.abc import Iterator, Sequence

from msgspec import UNSET, UnsetType

from helium_jax.server.openai.choices import Piece
from helium_jax.server.openai.formats import Heading, by_sequence, finite, tokens, usage_field
from helium_jax.server.openai.replies import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionReply,
    UsageReply,
)
from helium_jax.text import TextModel


class CompletionFormat:
    """Texts; with echo the first text of a sequence begins with its prompt."""

    def __init__(self, heading: Heading, text: TextModel, echoes: Sequence[str]) -> None:
        """`echoes`: the prompt's text per sequence, or nothing."""
        self._heading = heading
        self._text = text
        self._echoes = dict(enumerate(echoes))
        self._offsets: dict[int, int] = {}
        self._warnings: list[str] | UnsetType = heading.warnings or UNSET

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> CompletionReply:
        """The answer in one."""
        choices = []
        for index, own in enumerate(by_sequence(pieces)):
            text = self._echoes.pop(index, "") + "".join(piece.text for piece in own)
            choices.append(
                CompletionChoice(
                    index=index,
                    text=text,
                    logprobs=self._logprobs(index, own),
                    finish_reason=own[-1].finish_reason,
                )
            )
        return self._reply(choices, usage)

    def chunks(self, piece: Piece, *, usage: UsageReply | bool) -> Iterator[CompletionReply]:
        """One event per piece that has something to say."""
        text = self._echoes.pop(piece.index, "") + piece.text
        logprobs = self._logprobs(piece.index, [piece])
        if text or logprobs is not None or piece.finish_reason is not None:
            choice = CompletionChoice(
                index=piece.index, text=text, logprobs=logprobs, finish_reason=piece.finish_reason
            )
            yield self._reply([choice], usage)

    def usage_chunk(self, usage: UsageReply) -> CompletionReply:
        """No choices, only the usage."""
        return self._reply([], usage)

    def _reply(self, choices: list[CompletionChoice], usage: UsageReply | bool) -> CompletionReply:
        warnings, self._warnings = self._warnings, UNSET
        return CompletionReply(
            id=self._heading.id,
            created=self._heading.created,
            model=self._heading.model,
            system_fingerprint=self._heading.fingerprint,
            choices=choices,
            usage=usage_field(usage),
            warnings=warnings,
        )

    def _logprobs(self, index: int, pieces: Sequence[Piece]) -> CompletionLogprobs | None:
        if not any(piece.logprobs for piece in pieces):
            return None
        names, offsets = [], []
        token_logprobs: list[float | None] = []
        top: list[dict[str, float] | None] = []
        offset = self._offsets.get(index, 0)
        for token_id, entry in tokens(pieces):
            raw = self._text.token_bytes(token_id)
            names.append(_unique_name(raw))
            offsets.append(offset)
            offset += len(raw.decode("utf-8", "ignore"))
            token_logprobs.append(finite(entry.logprob))
            top.append(
                {_unique_name(self._text.token_bytes(i)): finite(lp) for i, lp in entry.top} or None
            )
        self._offsets[index] = offset
        return CompletionLogprobs(
            tokens=names, token_logprobs=token_logprobs, top_logprobs=top, text_offset=offsets
        )


def _unique_name(raw: bytes) -> str:
    """The token's text; parts of a character in OpenAI's `bytes:` form, which keeps them apart."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
