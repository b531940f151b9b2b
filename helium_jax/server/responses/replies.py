"""Answers and events of OpenAI's Responses API as types; ours are `usage.helium` and `warnings`."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from helium_jax.server.openai.replies import ErrorInner, HeliumUsage, TokenLogprob


class InputDetails(Struct, kw_only=True, frozen=True):
    """Prompt tokens whose KV was there already; none are written in order to be held."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct, kw_only=True, frozen=True):
    """Tokens of reasoning, which the models here do not tell apart."""

    reasoning_tokens: int = 0


class ResponseUsage(Struct, kw_only=True, frozen=True):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int
    helium: HeliumUsage


class OutputText(Struct, kw_only=True, frozen=True, tag_field="type", tag="output_text"):
    """Text of the model; `logprobs` as far as they were asked for."""

    text: str
    annotations: list[Any] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class OutputMessage(Struct, kw_only=True, frozen=True, tag_field="type", tag="message"):
    """What the model says; "incomplete" where max_output_tokens ended it."""

    id: str
    content: list[OutputText]
    status: str
    role: str = "assistant"


class FunctionCall(Struct, kw_only=True, frozen=True, tag_field="type", tag="function_call"):
    """What the model calls; its result is sent as an item of type function_call_output with this
    `call_id`. `arguments` is JSON as text, cut off if the call is "incomplete"."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: str


OutputItem = OutputMessage | FunctionCall


class InputText(Struct, kw_only=True, frozen=True, tag_field="type", tag="input_text"):
    """Text of the user or the system."""

    text: str


class InputMessage(Struct, kw_only=True, frozen=True, tag_field="type", tag="message"):
    """What somebody said before the response."""

    id: str
    role: str
    content: list[InputText | OutputText]
    status: str = "completed"


class CallOutput(Struct, kw_only=True, frozen=True, tag_field="type", tag="function_call_output"):
    """What a call gave."""

    id: str
    call_id: str
    output: str
    status: str = "completed"


InputItem = InputMessage | FunctionCall | CallOutput


class InputItemList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/responses/{id}/input_items; the instructions are no item."""

    data: list[InputItem]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: str = "list"


class IncompleteDetails(Struct, kw_only=True, frozen=True):
    """Why a response is incomplete."""

    reason: str


class ResponseFailure(Struct, kw_only=True, frozen=True):
    """Why a response failed: OpenAI's word; the event "error" has this server's own."""

    code: str
    message: str


class ResponseReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/responses: what came out, and what was asked for."""

    id: str
    created_at: int
    model: str
    status: str
    temperature: float
    top_p: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    parallel_tool_calls: bool
    store: bool
    output: list[OutputItem] = field(default_factory=list)
    usage: ResponseUsage | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    completed_at: int | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    top_logprobs: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    background: bool = False
    service_tier: str = "default"
    truncation: str = "disabled"
    object: str = "response"
    warnings: list[str] | UnsetType = UNSET


class _Event(Struct, kw_only=True, frozen=True, tag_field="type"):
    sequence_number: int


class ResponseCreated(_Event, kw_only=True, frozen=True, tag="response.created"):
    """First event of a stream."""

    response: ResponseReply


class ResponseInProgress(_Event, kw_only=True, frozen=True, tag="response.in_progress"):
    """The model has begun to answer."""

    response: ResponseReply


class ItemAdded(_Event, kw_only=True, frozen=True, tag="response.output_item.added"):
    """An item begins, empty yet."""

    output_index: int
    item: OutputItem


class PartAdded(_Event, kw_only=True, frozen=True, tag="response.content_part.added"):
    """The text of a message begins."""

    item_id: str
    output_index: int
    part: OutputText
    content_index: int = 0


class OutputTextDelta(_Event, kw_only=True, frozen=True, tag="response.output_text.delta"):
    """What the text gained."""

    item_id: str
    output_index: int
    delta: str
    logprobs: list[TokenLogprob]
    content_index: int = 0


class OutputTextDone(_Event, kw_only=True, frozen=True, tag="response.output_text.done"):
    """The text is whole."""

    item_id: str
    output_index: int
    text: str
    logprobs: list[TokenLogprob]
    content_index: int = 0


class PartDone(_Event, kw_only=True, frozen=True, tag="response.content_part.done"):
    """The text is whole."""

    item_id: str
    output_index: int
    part: OutputText
    content_index: int = 0


class ArgumentsDelta(
    _Event, kw_only=True, frozen=True, tag="response.function_call_arguments.delta"
):
    """What the arguments of a call gained."""

    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(_Event, kw_only=True, frozen=True, tag="response.function_call_arguments.done"):
    """The arguments of a call are whole."""

    item_id: str
    output_index: int
    name: str
    arguments: str


class ItemDone(_Event, kw_only=True, frozen=True, tag="response.output_item.done"):
    """An item is whole."""

    output_index: int
    item: OutputItem


class ResponseCompleted(_Event, kw_only=True, frozen=True, tag="response.completed"):
    """Last event of a stream: the whole response."""

    response: ResponseReply


class ResponseIncomplete(_Event, kw_only=True, frozen=True, tag="response.incomplete"):
    """Last event of a stream that max_output_tokens or the context ended."""

    response: ResponseReply


class ResponseFailed(_Event, kw_only=True, frozen=True, tag="response.failed"):
    """The response ends here; the event "error" follows."""

    response: ResponseReply


class StreamError(_Event, kw_only=True, frozen=True, tag="error"):
    """Last event of a stream that failed; `error` is the envelope of every other error, at which
    OpenAI's clients raise."""

    message: str
    code: str
    param: str | None
    error: ErrorInner


ItemEvent = (
    ItemAdded
    | PartAdded
    | OutputTextDelta
    | OutputTextDone
    | PartDone
    | ArgumentsDelta
    | ArgumentsDone
    | ItemDone
)
ResponseEvent = (
    ResponseCreated
    | ResponseInProgress
    | ItemEvent
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | StreamError
)


class InputTokens(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/responses/input_tokens."""

    input_tokens: int
    object: str = "response.input_tokens"
    warnings: list[str] | UnsetType = UNSET
