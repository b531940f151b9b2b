"""An answer in Anthropic's format: content blocks, whole or as named events."""

from collections.abc import Iterator, Sequence

from aiohttp import web
from msgspec import UNSET, Struct

from helium_jax.errors import HeliumError
from helium_jax.server.messages.blocks import BlockEvent, BlockWriter, join_blocks
from helium_jax.server.messages.errors import messages_envelope
from helium_jax.server.messages.replies import (
    Ending,
    MessageDelta,
    MessagesReply,
    MessageStart,
    MessageStop,
    MessagesUsage,
    Ping,
    TextBlock,
    ToolUseBlock,
)
from helium_jax.server.openai.choices import Piece
from helium_jax.server.openai.formats import Heading
from helium_jax.server.openai.replies import UsageReply
from helium_jax.server.sse import EventStream
from helium_jax.server.state import REQUEST_ID
from helium_jax.server.tools import ToolParser


class MessagesFormat:
    """Content blocks; holds the progress of one answer."""

    def __init__(
        self, heading: Heading, parser: ToolParser | None, *, num_held: int, is_cut: bool
    ) -> None:
        """
        Args:
            heading: what the message says of itself.
            parser: reads calls out of the answer; None: there are no tools.
            num_held: prompt tokens that were computed to be held, before the answer began.
            is_cut: the context had no room for max_tokens.
        """
        self._heading = heading
        self._writer = BlockWriter(parser)
        self._num_held = num_held
        self._is_cut = is_cut
        self._has_begun = False
        self._last: Piece | None = None

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> MessagesReply:
        """The answer in one."""
        events = [event for piece in pieces for event in self._write(piece)]
        return self._message(
            join_blocks(events), self._usage(usage), ending=self._ending(pieces[-1])
        )

    def chunks(self, piece: Piece, *, usage: UsageReply | bool) -> Iterator[Struct]:
        """The events for one piece."""
        assert isinstance(usage, UsageReply), "these streams tell their usage so far"
        if not self._has_begun:
            self._has_begun = True
            yield MessageStart(message=self._message([], self._usage(usage)))
        yield from self._write(piece)
        if piece.finish_reason is not None:
            self._last = piece

    def usage_chunk(self, usage: UsageReply) -> MessageDelta:
        """Why the answer ended, and its cost."""
        assert self._last is not None, "the usage follows the last piece"
        return MessageDelta(delta=self._ending(self._last), usage=self._usage(usage))

    def _write(self, piece: Piece) -> Iterator[BlockEvent]:
        return self._writer.write(piece.text, is_last=piece.finish_reason is not None)

    def _message(
        self,
        content: list[TextBlock | ToolUseBlock],
        usage: MessagesUsage,
        *,
        ending: Ending | None = None,
    ) -> MessagesReply:
        return MessagesReply(
            id=self._heading.id,
            model=self._heading.model,
            content=content,
            usage=usage,
            stop_reason=None if ending is None else ending.stop_reason,
            stop_sequence=None if ending is None else ending.stop_sequence,
            warnings=self._heading.warnings or UNSET,
        )

    def _ending(self, last: Piece) -> Ending:
        if last.stopped_by is not None:
            return Ending(stop_reason="stop_sequence", stop_sequence=last.stopped_by)
        if last.finish_reason == "length":
            cut = "model_context_window_exceeded"
            return Ending(stop_reason=cut if self._is_cut else "max_tokens")
        return Ending(stop_reason="tool_use" if self._writer.has_calls else "end_turn")

    def _usage(self, usage: UsageReply) -> MessagesUsage:
        cached = usage.prompt_tokens_details.cached_tokens
        read = max(cached - self._num_held, 0)
        return MessagesUsage(
            input_tokens=usage.prompt_tokens - read - self._num_held,
            output_tokens=usage.completion_tokens,
            cache_creation_input_tokens=self._num_held,
            cache_read_input_tokens=read,
        )


class MessagesWire:
    """Events under their names; the last one says that the answer is complete, or what failed."""

    def __init__(self, request: web.Request) -> None:
        self._stream = EventStream(request)
        self._request_id = request[REQUEST_ID]
        self._stream.response.headers["request-id"] = self._request_id

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
        await self._stream.send_named(str(value.__struct_config__.tag), value)

    async def ping(self) -> None:
        """Sends a ping event, which clients skip."""
        await self.send(Ping())

    async def finish(self) -> None:
        """Ends the stream as complete."""
        await self.send(MessageStop())
        await self._stream.end()

    async def fail(self, error: HeliumError) -> None:
        """Ends the stream with an error event."""
        await self.send(messages_envelope(error, self._request_id))
        await self._stream.end()
