"""Answers and events of Anthropic's Messages API as types; ours is `warnings`."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class MessagesUsage(Struct, kw_only=True, frozen=True):
    """Tokens of one request; the three input counts together are the whole prompt.

    `cache_read_input_tokens`: their KV was there already. `cache_creation_input_tokens`: computed
    for this request and held because of its cache_control. `input_tokens`: computed and not held.
    """

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class TextBlock(Struct, kw_only=True, frozen=True, tag_field="type", tag="text"):
    """Text of the model."""

    text: str


class ToolUseBlock(Struct, kw_only=True, frozen=True, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class MessagesReply(Struct, kw_only=True, frozen=True, tag_field="type", tag="message"):
    """Answer of POST /v1/messages, and what message_start holds of it."""

    id: str
    model: str
    content: list[TextBlock | ToolUseBlock]
    usage: MessagesUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None
    role: str = "assistant"
    warnings: list[str] | UnsetType = UNSET


class MessageStart(Struct, kw_only=True, frozen=True, tag_field="type", tag="message_start"):
    """First event of a stream: the message, empty yet, with the cost of its input."""

    message: MessagesReply


class BlockStart(Struct, kw_only=True, frozen=True, tag_field="type", tag="content_block_start"):
    """A block begins, empty yet."""

    index: int
    content_block: TextBlock | ToolUseBlock


class TextDelta(Struct, kw_only=True, frozen=True, tag_field="type", tag="text_delta"):
    """What a text block gained."""

    text: str


class InputDelta(Struct, kw_only=True, frozen=True, tag_field="type", tag="input_json_delta"):
    """What the JSON of a tool's input gained."""

    partial_json: str


class BlockDelta(Struct, kw_only=True, frozen=True, tag_field="type", tag="content_block_delta"):
    """What a block gained."""

    index: int
    delta: TextDelta | InputDelta


class BlockStop(Struct, kw_only=True, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block is whole."""

    index: int


class Ending(Struct, kw_only=True, frozen=True):
    """Why the answer ended, and at which of the stop_sequences."""

    stop_reason: str
    stop_sequence: str | None = None


class MessageDelta(Struct, kw_only=True, frozen=True, tag_field="type", tag="message_delta"):
    """The answer's end and cost."""

    delta: Ending
    usage: MessagesUsage


class MessageStop(Struct, kw_only=True, frozen=True, tag_field="type", tag="message_stop"):
    """Last event of a stream."""


class Ping(Struct, kw_only=True, frozen=True, tag_field="type", tag="ping"):
    """Keeps a silent stream alive."""


class ErrorCause(Struct, kw_only=True, frozen=True):
    """What is wrong; `type` is Anthropic's word, `code` and `param` are as in other errors here."""

    type: str
    message: str
    code: str
    param: str | None = None


class MessagesError(Struct, kw_only=True, frozen=True, tag_field="type", tag="error"):
    """Every error of these paths; in a stream, its last event."""

    error: ErrorCause
    request_id: str


MessagesEvent = (
    MessageStart
    | BlockStart
    | BlockDelta
    | BlockStop
    | MessageDelta
    | MessageStop
    | Ping
    | MessagesError
)


class TokenCount(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/messages/count_tokens."""

    input_tokens: int
    warnings: list[str] | UnsetType = UNSET
