"""Pieces of text in OpenAI's two formats, chat and the older completions, whole and streamed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

from helium_jax.server.choices import Piece
from helium_jax.server.replies import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    ChatReply,
    ChunkChoice,
    CompletionChoice,
    CompletionLogprobs,
    CompletionReply,
    Delta,
    TokenLogprob,
    TopLogprob,
    UsageReply,
)
from helium_jax.text import TextModel
from helium_jax.types import TokenLogprobs

_LOWEST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What every chunk of one answer repeats; `warnings` appear in the first only."""

    id: str
    created: int
    model: str
    fingerprint: str | None
    warnings: list[str] = field(default_factory=list)


class Format(Protocol):
    """How one endpoint writes its answers; holds the progress of one answer."""

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> Struct:
        """The answer in one."""
        ...

    def chunks(self, piece: Piece, *, usage: UsageReply | bool) -> Iterator[Struct]:
        """The events for one piece; `usage` is what each carries, True for a null."""
        ...

    def usage_chunk(self, usage: UsageReply) -> Struct:
        """The event after the last choice."""
        ...


class ChatFormat:
    """Messages and deltas."""

    def __init__(self, heading: Heading, text: TextModel) -> None:
        self._heading = heading
        self._text = text
        self._begun: set[int] = set()
        self._warnings: list[str] | UnsetType = heading.warnings or UNSET

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> ChatReply:
        """The answer in one."""
        choices = []
        for index, own in enumerate(_by_sequence(pieces)):
            choices.append(
                ChatChoice(
                    index=index,
                    message=AnswerMessage(content="".join(piece.text for piece in own)),
                    logprobs=self._logprobs(own),
                    finish_reason=own[-1].finish_reason or "",
                )
            )
        return ChatReply(
            id=self._heading.id,
            created=self._heading.created,
            model=self._heading.model,
            system_fingerprint=self._heading.fingerprint,
            choices=choices,
            usage=usage,
            warnings=self._warnings,
        )

    def chunks(self, piece: Piece, *, usage: UsageReply | bool) -> Iterator[ChatChunk]:
        """The role before a sequence's first text, its texts, its finish reason."""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            opening = Delta(role="assistant", content="")
            yield self._chunk([ChunkChoice(index=piece.index, delta=opening)], usage)
        logprobs = self._logprobs([piece])
        if piece.text or logprobs is not None:
            gained = ChunkChoice(
                index=piece.index, delta=Delta(content=piece.text), logprobs=logprobs
            )
            yield self._chunk([gained], usage)
        if piece.finish_reason is not None:
            closing = ChunkChoice(
                index=piece.index, delta=Delta(), finish_reason=piece.finish_reason
            )
            yield self._chunk([closing], usage)

    def usage_chunk(self, usage: UsageReply) -> ChatChunk:
        """No choices, only the usage."""
        return self._chunk([], usage)

    def _chunk(self, choices: list[ChunkChoice], usage: UsageReply | bool) -> ChatChunk:
        warnings, self._warnings = self._warnings, UNSET
        return ChatChunk(
            id=self._heading.id,
            created=self._heading.created,
            model=self._heading.model,
            system_fingerprint=self._heading.fingerprint,
            choices=choices,
            usage=_usage_field(usage),
            warnings=warnings,
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if not any(piece.logprobs for piece in pieces):
            return None
        content = []
        for token_id, entry in _tokens(pieces):
            raw = self._text.token_bytes(token_id)
            top = []
            for other, logprob in entry.top:
                other_raw = self._text.token_bytes(other)
                top.append(
                    TopLogprob(
                        token=_readable(other_raw),
                        logprob=_finite(logprob),
                        bytes=list(other_raw),
                    )
                )
            content.append(
                TokenLogprob(
                    token=_readable(raw),
                    logprob=_finite(entry.logprob),
                    bytes=list(raw),
                    top_logprobs=top,
                )
            )
        return ChatLogprobs(content=content)


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
        for index, own in enumerate(_by_sequence(pieces)):
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
            usage=_usage_field(usage),
            warnings=warnings,
        )

    def _logprobs(self, index: int, pieces: Sequence[Piece]) -> CompletionLogprobs | None:
        if not any(piece.logprobs for piece in pieces):
            return None
        names, offsets = [], []
        token_logprobs: list[float | None] = []
        top: list[dict[str, float] | None] = []
        offset = self._offsets.get(index, 0)
        for token_id, entry in _tokens(pieces):
            raw = self._text.token_bytes(token_id)
            names.append(_unique_name(raw))
            offsets.append(offset)
            offset += len(raw.decode("utf-8", "ignore"))
            token_logprobs.append(_finite(entry.logprob))
            top.append(
                {_unique_name(self._text.token_bytes(i)): _finite(lp) for i, lp in entry.top}
                or None
            )
        self._offsets[index] = offset
        return CompletionLogprobs(
            tokens=names, token_logprobs=token_logprobs, top_logprobs=top, text_offset=offsets
        )


def _by_sequence(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of each sequence, in the order of their indices."""
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.index, []).append(piece)
    return [groups[index] for index in sorted(groups)]


def _tokens(pieces: Sequence[Piece]) -> Iterator[tuple[int, TokenLogprobs]]:
    for piece in pieces:
        yield from zip(piece.token_ids, piece.logprobs, strict=True)


def _usage_field(usage: UsageReply | bool) -> UsageReply | UnsetType | None:
    """True is the null that OpenAI sends in every chunk when a usage chunk will come."""
    if isinstance(usage, UsageReply):
        return usage
    return None if usage else UNSET


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB)


def _readable(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _unique_name(raw: bytes) -> str:
    """The token's text; parts of a character in OpenAI's `bytes:` form, which keeps them apart."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
