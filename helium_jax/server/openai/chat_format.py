"""Pieces of text as OpenAI's chat messages with calls of tools, whole and streamed."""

from collections.abc import Callable, Iterator, Sequence

from msgspec import UNSET, UnsetType

from helium_jax.server.openai.choices import Piece
from helium_jax.server.openai.formats import Heading, by_sequence, read_logprobs, usage_field
from helium_jax.server.openai.replies import (
    AnswerMessage,
    CallDelta,
    CalledFunction,
    CallReply,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    ChatReply,
    ChunkChoice,
    Delta,
    FunctionDelta,
    UsageReply,
)
from helium_jax.server.tools import CallBegan, TextGained, ToolEvent, ToolParser, join_events
from helium_jax.text import TextModel


class ChatFormat:
    """Messages and deltas; texts are read by a parser of calls if the answer may have any."""

    def __init__(
        self,
        heading: Heading,
        text: TextModel,
        make_parser: Callable[[], ToolParser] | None = None,
    ) -> None:
        """`make_parser`: makes what reads one sequence; None: there are no tools."""
        self._heading = heading
        self._text = text
        self._make_parser = make_parser
        self._parsers: dict[int, ToolParser] = {}
        self._begun: set[int] = set()
        self._warnings: list[str] | UnsetType = heading.warnings or UNSET

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> ChatReply:
        """The answer in one."""
        choices = []
        for index, own in enumerate(by_sequence(pieces)):
            events = [event for piece in own for event in self._read(piece)]
            choices.append(
                ChatChoice(
                    index=index,
                    message=self._message(events),
                    logprobs=self._logprobs(own),
                    finish_reason=self._finish_reason(own[-1]) or "",
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
        """The role before a sequence's first gain, a chunk for each gain, its finish reason."""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            content = "" if self._make_parser is None else None
            opening = Delta(role="assistant", content=content)
            yield self._chunk([ChunkChoice(index=piece.index, delta=opening)], usage)
        logprobs = self._logprobs([piece])
        deltas = [_delta(event) for event in self._read(piece)]
        if not deltas and logprobs is not None:
            deltas = [Delta(content="") if self._make_parser is None else Delta()]
        for delta in deltas:
            gained = ChunkChoice(index=piece.index, delta=delta, logprobs=logprobs)
            yield self._chunk([gained], usage)
            logprobs = None
        if piece.finish_reason is not None:
            closing = ChunkChoice(
                index=piece.index, delta=Delta(), finish_reason=self._finish_reason(piece)
            )
            yield self._chunk([closing], usage)

    def usage_chunk(self, usage: UsageReply) -> ChatChunk:
        """No choices, only the usage."""
        return self._chunk([], usage)

    def _read(self, piece: Piece) -> list[ToolEvent]:
        """What a piece tells, its sequence's earlier pieces being read already."""
        if self._make_parser is None:
            return [TextGained(text=piece.text)] if piece.text else []
        parser = self._parsers.get(piece.index)
        if parser is None:
            parser = self._parsers[piece.index] = self._make_parser()
        events = parser.push(piece.text)
        return events if piece.finish_reason is None else [*events, *parser.finish()]

    def _finish_reason(self, last: Piece) -> str | None:
        parser = self._parsers.get(last.index)
        if parser is None or not parser.num_calls or parser.is_inside_call:
            return last.finish_reason
        return "tool_calls" if last.finish_reason == "stop" else last.finish_reason

    def _message(self, events: list[ToolEvent]) -> AnswerMessage:
        answer = join_events(events)
        if self._make_parser is None:
            return AnswerMessage(content=answer.text)
        calls = [
            CallReply(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))
            for call in answer.calls
        ]
        return AnswerMessage(content=answer.text or None, tool_calls=calls or UNSET)

    def _chunk(self, choices: list[ChunkChoice], usage: UsageReply | bool) -> ChatChunk:
        warnings, self._warnings = self._warnings, UNSET
        return ChatChunk(
            id=self._heading.id,
            created=self._heading.created,
            model=self._heading.model,
            system_fingerprint=self._heading.fingerprint,
            choices=choices,
            usage=usage_field(usage),
            warnings=warnings,
        )

    def _logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if not any(piece.logprobs for piece in pieces):
            return None
        return ChatLogprobs(content=read_logprobs(pieces, self._text))


def _delta(event: ToolEvent) -> Delta:
    match event:
        case TextGained():
            return Delta(content=event.text)
        case CallBegan():
            call = CallDelta(
                index=event.index,
                id=event.id,
                type="function",
                function=FunctionDelta(name=event.name),
            )
        case _:
            call = CallDelta(index=event.index, function=FunctionDelta(arguments=event.text))
    return Delta(tool_calls=[call])
