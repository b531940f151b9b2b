"""The request bodies as types: what parses them also writes /openapi.json.

Every optional field may be null, which means its default. Which fields of other servers we know
but do not carry out is in `FOREIGN_*`: accepted while they hold a value that asks for nothing.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

from helium_jax.server.hint_bodies import HintFields
from helium_jax.server.openai.format_bodies import ResponseFormatBody, StructuredOutputsBody
from helium_jax.server.tools.bodies import ToolBody, ToolCallBody, ToolChoiceBody

Fraction = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class StreamOptions(Struct, kw_only=True, frozen=True):
    """`include_usage`: one more chunk with the usage at the end; `continuous_usage_stats` (vLLM's):
    the usage so far in every chunk as well."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class DecodingFields(HintFields, kw_only=True, frozen=True):
    """How an answer is decoded, whatever the endpoint: OpenAI's fields, then vLLM's and SGLang's.

    What is left out or null comes from the model's generation_config.json. `seed` is taken modulo
    2**63. `priority`: lower is sooner. `cache_salt`: KV is shared only with requests of the same
    key and salt.
    """

    model: Name
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    priority: Int32 | None = None
    cache_salt: Annotated[str, Meta(min_length=1)] | None = None


class SamplingFields(DecodingFields, kw_only=True, frozen=True):
    """What chat and completions requests have in common.

    With `n` > 1 answer j uses seed + j. Of `response_format`, `structured_outputs` and `guided_*`
    (older names of vLLM's) there may be one.
    """

    stream_options: StreamOptions | None = None
    n: Count | None = None
    max_tokens: Count | None = None
    response_format: ResponseFormatBody | None = None
    structured_outputs: StructuredOutputsBody | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


class ContentPart(Struct, kw_only=True, frozen=True):
    """A part of a message; only parts of type "text" are for this server's models."""

    type: str
    text: str | None = None


class Message(Struct, kw_only=True, frozen=True):
    """A chat message; the role "developer" is rendered as "system", text parts are joined by
    line breaks. A message of the role "tool" is the result of the call `tool_call_id`."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None


class ChatBody(SamplingFields, kw_only=True, frozen=True):
    """POST /v1/chat/completions.

    `tool_choice`: "none" (the model is not told of `tools`), "auto", "required" or one function;
    `parallel_tool_calls: false`: at most one call.
    `chat_template_kwargs`: what the model's own template understands, such as enable_thinking.
    """

    messages: list[Message]
    tools: list[ToolBody] | None = None
    tool_choice: str | ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None


class CompletionBody(SamplingFields, kw_only=True, frozen=True):
    """POST /v1/completions; an empty prompt is an error, whatever the tokenizer prepends."""

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    best_of: Count | None = None
    add_special_tokens: bool | None = None


class TokenizeBody(Struct, kw_only=True, frozen=True):
    """POST /tokenize: either `prompt` or `messages`."""

    model: Name | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[ToolBody] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Struct, kw_only=True, frozen=True):
    """POST /detokenize."""

    tokens: list[TokenId]
    model: Name | None = None


# Fields of OpenAI's, vLLM's and SGLang's requests with an effect that we do not have, and the
# values beside null under which they ask for nothing.
FOREIGN_FIELDS: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template": (),
    "custom_logit_processor": (),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "ebnf": (),
    "grammar": (),
    "guided_whitespace_pattern": (),
    "json_schema": (),
    "kv_transfer_params": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lora_path": (),
    "mm_processor_kwargs": ({},),
    "prompt_logprobs": (),
    "regex": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "structural_tag": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
FOREIGN_CHAT_FIELDS: dict[str, tuple[Any, ...]] = {
    **FOREIGN_FIELDS,
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "audio": (),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
FOREIGN_COMPLETION_FIELDS: dict[str, tuple[Any, ...]] = {**FOREIGN_FIELDS, "suffix": ("",)}
# Of vLLM's structured_outputs.
FOREIGN_STRUCTURED_FIELDS: dict[str, tuple[Any, ...]] = {
    "disable_additional_properties": (False,),
    "disable_any_whitespace": (False,),
    "structural_tag": (),
    "whitespace_pattern": (),
}
# Of a message: each would change the rendered prompt.
FOREIGN_MESSAGE_FIELDS: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "reasoning_content": (),
    "refusal": (),
}
