"""Bodies of OpenAI's Responses API as types; what decodes an answer is shared with chat."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from helium_jax.server.openai.bodies import FOREIGN_FIELDS, Count, DecodingFields, Name
from helium_jax.server.openai.format_bodies import TextFormatBody


class ItemPart(Struct, kw_only=True, frozen=True):
    """A part of a message or of a call's output; only "input_text", "output_text" and "text" are
    for this server's models. `annotations` and `logprobs` of earlier answers are not read."""

    type: str
    text: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Item(Struct, kw_only=True, frozen=True):
    """A part of the conversation: a "message" (also without a type) has a role and a content; a
    "function_call" a call_id, a name and arguments; a "function_call_output" a call_id and an
    output. Other types are refused by their name. `id` and `status` are not read."""

    type: str | None = None
    role: str | None = None
    content: str | list[ItemPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ItemPart] | None = None
    id: str | None = None
    status: str | None = None


class FunctionTool(Struct, kw_only=True, frozen=True):
    """A function; the only `type` is "function". Calls always meet the schema, whether `strict` is
    set or not."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Struct, kw_only=True, frozen=True):
    """`type` is "function", with the name of the one that must be called, or "allowed_tools" with
    a mode ("auto" or "required") and tools."""

    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[FunctionTool] | None = None


class TextConfig(Struct, kw_only=True, frozen=True):
    """What an answer without calls must look like."""

    format: TextFormatBody | None = None


class ResponseBody(DecodingFields, kw_only=True, frozen=True):
    """POST /v1/responses and /v1/responses/input_tokens.

    `input`: a text or the items of a conversation; it goes on from `previous_response_id`, whose
    `instructions` are not repeated. `store` (true if left out): the answer can be asked for and
    continued by its id, in this process's memory and as long as there is room. `metadata` comes
    back with the answer. `include` may ask for "message.output_text.logprobs"; what else it may ask
    for belongs to items that there are not here. `max_tool_calls` counts built-in tools, of which
    there are none.
    """

    input: str | list[Item] | None = None
    instructions: str | None = None
    previous_response_id: Name | None = None
    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None


# As bodies.FOREIGN_FIELDS.
FOREIGN_RESPONSE_FIELDS: dict[str, tuple[Any, ...]] = {
    **FOREIGN_FIELDS,
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "moderation": (),
    "n": (1,),
    "prompt": (),
    "reasoning": ({}, {"effort": "none"}),
    "stream_options": ({}, {"include_obfuscation": False}),
    "structured_outputs": (),
    "truncation": ("disabled",),
}
FOREIGN_TEXT_FIELDS: dict[str, tuple[Any, ...]] = {"verbosity": ("medium",)}
FOREIGN_TOOL_FIELDS: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
    "output_schema": (),
}
FOREIGN_ITEM_FIELDS: dict[str, tuple[Any, ...]] = {
    "async": (False,),
    "caller": ({"type": "direct"},),
    "namespace": (),
    "phase": ("commentary", "final_answer"),  # a label, which no chat template knows
}
# Fields of chat requests, which users bring along, and what they are called here.
CHAT_FIELDS = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
}
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
