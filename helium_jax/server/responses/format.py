"""An answer in the Responses API's format: output items, whole or as named events."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
from aiohttp import web
from msgspec import Struct

from helium_jax.errors import HeliumError
from helium_jax.server.errors import envelope, status_of
from helium_jax.server.openai.choices import Piece
from helium_jax.server.openai.formats import read_logprobs
from helium_jax.server.openai.replies import ErrorInner, UsageReply
from helium_jax.server.responses.items import ItemWriter
from helium_jax.server.responses.replies import (
    IncompleteDetails,
    InputDetails,
    ItemEvent,
    OutputDetails,
    ResponseCompleted,
    ResponseCreated,
    ResponseFailed,
    ResponseFailure,
    ResponseIncomplete,
    ResponseInProgress,
    ResponseReply,
    ResponseUsage,
    StreamError,
)
from helium_jax.server.sse import EventStream
from helium_jax.server.tools import ToolParser
from helium_jax.text import TextModel


class ResponsesFormat:
    """Output items; holds the progress of one answer."""

    def __init__(
        self,
        draft: ResponseReply,
        parser: ToolParser | None,
        text: TextModel,
        *,
        keep: Callable[[ResponseReply], None],
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            draft: the response, empty yet.
            parser: reads calls out of the answer; None: there are no tools.
            text: names the tokens of log-probabilities.
            keep: called with the whole response, before it is told.
            now: seconds since the epoch.
        """
        self._draft = draft
        self._text = text
        self._keep = keep
        self._now = now
        self._numbers = itertools.count()
        self._writer = ItemWriter(parser, self._next_number)
        self._has_begun = False
        self._is_cut = False

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> ResponseReply:
        """The answer in one."""
        for piece in pieces:
            for _ in self._write(piece):
                pass
        return self._finish(usage)

    def chunks(self, piece: Piece, *, usage: UsageReply | bool) -> Iterator[Struct]:
        """The events for one piece."""
        if not self._has_begun:
            self._has_begun = True
            yield ResponseCreated(sequence_number=self._next_number(), response=self._draft)
            yield ResponseInProgress(sequence_number=self._next_number(), response=self._draft)
        yield from self._write(piece)

    def usage_chunk(self, usage: UsageReply) -> ResponseCompleted | ResponseIncomplete:
        """The whole answer, with its cost."""
        kind = ResponseIncomplete if self._is_cut else ResponseCompleted
        return kind(sequence_number=self._next_number(), response=self._finish(usage))

    def _next_number(self) -> int:
        return next(self._numbers)

    def _write(self, piece: Piece) -> Iterator[ItemEvent]:
        yield from self._writer.write(piece.text, read_logprobs([piece], self._text))
        if piece.finish_reason is not None:
            self._is_cut = piece.finish_reason == "length"
            yield from self._writer.finish(is_cut=self._is_cut)

    def _finish(self, usage: UsageReply) -> ResponseReply:
        cut = IncompleteDetails(reason="max_output_tokens") if self._is_cut else None
        reply = msgspec.structs.replace(
            self._draft,
            status="incomplete" if self._is_cut else "completed",
            output=self._writer.items,
            usage=_usage(usage),
            incomplete_details=cut,
            completed_at=None if self._is_cut else int(self._now()),
        )
        self._keep(reply)
        return reply


def _usage(usage: UsageReply) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=usage.total_tokens,
        helium=usage.helium,
    )


class ResponsesWire:
    """Events under their names; the last one says that the answer is complete, or what failed."""

    def __init__(self, request: web.Request) -> None:
        self._stream = EventStream(request)
        self._last_number = -1
        self._response: ResponseReply | None = None

    @property
    def response(self) -> web.StreamResponse:
        """To return from the handler, once something was sent."""
        return self._stream.response

    @property
    def has_begun(self) -> bool:
        """Whether bytes are under way and the status is settled."""
        return self._stream.has_begun

    async def send(self, value: Struct) -> None:
        """Sends one event under its name."""
        if isinstance(value, ResponseCreated):
            self._response = value.response
        self._last_number = getattr(value, "sequence_number", self._last_number)
        await self._stream.send_named(str(value.__struct_config__.tag), value)

    async def ping(self) -> None:
        """Sends a comment, which clients skip."""
        await self._stream.ping()

    async def finish(self) -> None:
        """Ends the stream; its last event said that it is complete."""
        await self._stream.end()

    async def fail(self, error: HeliumError) -> None:
        """Ends the stream with the failed response, if it was created, and an error event."""
        if self._response is not None:
            status, _ = status_of(error)
            code = "rate_limit_exceeded" if status == 429 else "server_error"
            failure = ResponseFailure(code=code, message=error.message)
            failed = msgspec.structs.replace(self._response, status="failed", error=failure)
            await self.send(ResponseFailed(sequence_number=self._last_number + 1, response=failed))
        inner = msgspec.convert(envelope(error)["error"], ErrorInner)
        await self.send(
            StreamError(
                sequence_number=self._last_number + 1,
                message=error.message,
                code=error.code,
                param=error.param,
                error=inner,
            )
        )
        await self._stream.end()
