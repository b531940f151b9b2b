"""An answer in Anthropic's format: content blocks, whole or as named events."""

from collections.abc import Iterator, Sequence

from aiohttp import web
from msgspec import UNSET, Struct

from helium_jax.errors import HeliumError
from helium_jax.server.choices import Piece
from helium_jax.server.formats import Heading
from helium_jax.server.messages_errors import messages_envelope
from helium_jax.server.messages_replies import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    MessageDelta,
    MessagesReply,
    MessageStart,
    MessageStop,
    MessagesUsage,
    Ping,
    TextBlock,
    TextDelta,
)
from helium_jax.server.replies import UsageReply
from helium_jax.server.sse import EventStream
from helium_jax.server.state import REQUEST_ID


class MessagesFormat:
    """Content blocks; holds the progress of one answer."""

    def __init__(self, heading: Heading, *, num_held: int, is_cut: bool) -> None:
        """`num_held`: prompt tokens that were computed to be held, before the answer began.
        `is_cut`: the context had no room for max_tokens."""
        self._heading = heading
        self._num_held = num_held
        self._is_cut = is_cut
        self._has_begun = False
        self._is_in_block = False
        self._last: Piece | None = None

    def whole(self, pieces: Sequence[Piece], usage: UsageReply) -> MessagesReply:
        """The answer in one."""
        text = "".join(piece.text for piece in pieces)
        ending = self._ending(pieces[-1])
        return self._message(
            [TextBlock(text=text)] if text else [],
            self._usage(usage),
            ending=ending,
        )

    def chunks(self, piece: Piece, *, usage: UsageReply | bool) -> Iterator[Struct]:
        """The events for one piece."""
        assert isinstance(usage, UsageReply), "these streams tell their usage so far"
        if not self._has_begun:
            self._has_begun = True
            yield MessageStart(message=self._message([], self._usage(usage)))
        if piece.text:
            if not self._is_in_block:
                self._is_in_block = True
                yield BlockStart(index=0, content_block=TextBlock(text=""))
            yield BlockDelta(index=0, delta=TextDelta(text=piece.text))
        if piece.finish_reason is not None:
            self._last = piece
            if self._is_in_block:
                yield BlockStop(index=0)

    def usage_chunk(self, usage: UsageReply) -> MessageDelta:
        """Why the answer ended, and its cost."""
        assert self._last is not None, "the usage follows the last piece"
        return MessageDelta(delta=self._ending(self._last), usage=self._usage(usage))

    def _message(
        self, content: list[TextBlock], usage: MessagesUsage, *, ending: Ending | None = None
    ) -> MessagesReply:
        return MessagesReply(
            id=self._heading.id,
            model=self._heading.model,
            content=[*content],
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
        return Ending(stop_reason="end_turn")

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
