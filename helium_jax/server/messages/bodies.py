"""Bodies of Anthropic's Messages API as types; fields that are ours too come after theirs."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from helium_jax.server.hint_bodies import HintFields
from helium_jax.server.openai.bodies import Count, Fraction, Int32, Name


class CacheControl(Struct, kw_only=True, frozen=True):
    """The prompt up to here will be sent again: its KV is held for `ttl` after its last use."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class ResultBlock(Struct, kw_only=True, frozen=True):
    """A part of what a tool answered; only parts of type "text" are for this server's models."""

    type: str
    text: str | None = None
    cache_control: CacheControl | None = None


class Block(Struct, kw_only=True, frozen=True):
    """A part of a message: "text" has a text; "tool_use" an id, a name and an input;
    "tool_result" a tool_use_id and a content. Other types are refused by their name."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class Turn(Struct, kw_only=True, frozen=True):
    """A message of the user or the assistant; turns of one role in a row are one.

    If the assistant has the last turn, the answer goes on from its text.
    """

    role: Literal["user", "assistant"]
    content: str | list[Block]


class Tool(Struct, kw_only=True, frozen=True):
    """A function that the model may call; `input_schema`, a JSON Schema of an object, is
    required. The only `type` is "custom"."""

    name: Name
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Struct, kw_only=True, frozen=True):
    """Whether tools may (auto), must (any, or the named tool) or must not (none) be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Struct, kw_only=True, frozen=True):
    """An answer without calls is JSON of this schema; the only `type` is "json_schema"."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, kw_only=True, frozen=True):
    """What an answer must look like."""

    format: OutputFormat | None = None


class PromptFields(HintFields, kw_only=True, frozen=True):
    """What is counted as input.

    `cache_control` on the whole body marks the end of the last message.
    `chat_template_kwargs`: what the model's own template understands, such as enable_thinking.
    """

    model: Name
    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None


class MessagesBody(PromptFields, kw_only=True, frozen=True):
    """POST /v1/messages.

    What is left out or null of the sampling fields comes from the model's
    generation_config.json. `max_tokens` is cut to what the context has room for; an answer that
    ends there says model_context_window_exceeded. `priority` and `cache_salt` are as in
    /v1/chat/completions.
    """

    max_tokens: Count
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    stop_sequences: list[str] | None = None
    priority: Int32 | None = None
    cache_salt: Annotated[str, Meta(min_length=1)] | None = None


class CountTokensBody(PromptFields, kw_only=True, frozen=True):
    """POST /v1/messages/count_tokens."""


# As bodies.FOREIGN_FIELDS: what Anthropic's API has and this server has not.
FOREIGN_MESSAGES_FIELDS: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "output_format": (),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
}
FOREIGN_OUTPUT_FIELDS: dict[str, tuple[Any, ...]] = {"effort": (), "task_budget": ()}
