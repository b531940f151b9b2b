"""What a format of answers is, and what OpenAI's two formats share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

from helium_jax.server.openai.choices import Piece
from helium_jax.server.openai.replies import TokenLogprob, TopLogprob, UsageReply
from helium_jax.text import TextModel
from helium_jax.types import TokenLogprobs

_LOWEST_LOGPROB = -9999.0


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


def by_sequence(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of each sequence, in the order of their indices."""
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.index, []).append(piece)
    return [groups[index] for index in sorted(groups)]


def tokens(pieces: Sequence[Piece]) -> Iterator[tuple[int, TokenLogprobs]]:
    """Each generated token with its log-probabilities, as far as they were asked for."""
    for piece in pieces:
        if not piece.logprobs:
            continue
        yield from zip(piece.token_ids, piece.logprobs, strict=True)


def read_logprobs(pieces: Sequence[Piece], text: TextModel) -> list[TokenLogprob]:
    """The log-probabilities of each generated token, as far as they were asked for."""
    content = []
    for token_id, entry in tokens(pieces):
        raw = text.token_bytes(token_id)
        top = []
        for other, logprob in entry.top:
            bytes_ = text.token_bytes(other)
            top.append(
                TopLogprob(token=_readable(bytes_), logprob=finite(logprob), bytes=list(bytes_))
            )
        content.append(
            TokenLogprob(
                token=_readable(raw),
                logprob=finite(entry.logprob),
                bytes=list(raw),
                top_logprobs=top,
            )
        )
    return content


def _readable(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def usage_field(usage: UsageReply | bool) -> UsageReply | UnsetType | None:
    """True is the null that OpenAI sends in every chunk when a usage chunk will come."""
    if isinstance(usage, UsageReply):
        return usage
    return None if usage else UNSET


def finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, _LOWEST_LOGPROB)
