"""The answers as types, in OpenAI's shapes; ours is `usage.helium` and `warnings`."""

from msgspec import UNSET, Struct, UnsetType


class PromptDetails(Struct, kw_only=True, frozen=True):
    """Prompt tokens whose KV was there already."""

    cached_tokens: int


class HeliumUsage(Struct, kw_only=True, frozen=True):
    """Where the prompt tokens came from: computed + kv_cached + result_cached = prompt_tokens."""

    computed: int
    kv_cached: int
    result_cached: int = 0


class UsageReply(Struct, kw_only=True, frozen=True):
    """Tokens of one request, over all its prompts and answers; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    helium: HeliumUsage


class TopLogprob(Struct, kw_only=True, frozen=True):
    """An alternative; `bytes` are the token's own, `token` their text with U+FFFD for parts."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(Struct, kw_only=True, frozen=True):
    """One generated token, a closing end-of-sequence token included."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, kw_only=True, frozen=True):
    """Log-probabilities of a chat answer."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(Struct, kw_only=True, frozen=True):
    """What the model calls; `arguments` is JSON as text, cut off where the answer was."""

    name: str
    arguments: str


class CallReply(Struct, kw_only=True, frozen=True):
    """A call of the model's; its result is sent as a message with this `tool_call_id`."""

    id: str
    function: CalledFunction
    type: str = "function"


class AnswerMessage(Struct, kw_only=True, frozen=True):
    """The model's message; with calls its content may be null."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[CallReply] | UnsetType = UNSET


class ChatChoice(Struct, kw_only=True, frozen=True):
    """One of n answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReply
    object: str = "chat.completion"
    system_fingerprint: str | None = None
    warnings: list[str] | UnsetType = UNSET


class FunctionDelta(Struct, kw_only=True, frozen=True):
    """What a call gained."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class CallDelta(Struct, kw_only=True, frozen=True):
    """What the call number `index` gained; its id, type and name come first."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Delta(Struct, kw_only=True, frozen=True):
    """What an answer gained; the role comes first and alone with an empty text, or null if the
    answer may be calls."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChunkChoice(Struct, kw_only=True, frozen=True):
    """What one answer gained."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(Struct, kw_only=True, frozen=True):
    """One event of a chat stream."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: str = "chat.completion.chunk"
    system_fingerprint: str | None = None
    usage: UsageReply | UnsetType | None = UNSET
    warnings: list[str] | UnsetType = UNSET


class CompletionLogprobs(Struct, kw_only=True, frozen=True):
    """The older form: four lists over the tokens; offsets count characters of `text`."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, kw_only=True, frozen=True):
    """One answer; its index is prompt * n + answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class CompletionReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/completions, and each event of its stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    system_fingerprint: str | None = None
    usage: UsageReply | UnsetType | None = UNSET
    warnings: list[str] | UnsetType = UNSET


class ModelCard(Struct, kw_only=True, frozen=True):
    """A model that is served; `embeddings` says what its vectors are, if it makes any."""

    id: str
    created: int
    max_model_len: int
    object: str = "model"
    owned_by: str = "helium-jax"
    embeddings: str | UnsetType = UNSET


class ModelList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/models."""

    data: list[ModelCard]
    object: str = "list"


class TokenizeReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /tokenize."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None
    warnings: list[str] | UnsetType = UNSET


class DetokenizeReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /detokenize."""

    prompt: str
    warnings: list[str] | UnsetType = UNSET


class ErrorInner(Struct, kw_only=True, frozen=True):
    """What is wrong, where, and a stable word for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(Struct, kw_only=True, frozen=True):
    """Every error of every path."""

    error: ErrorInner
