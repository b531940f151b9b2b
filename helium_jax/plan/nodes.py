"""The nodes that compute one value: frozen values that name each other, never hold each other.

A node refers to its inputs by name, so that a plan with a wrong name or a cycle can be built, shown
and refused with a good message, and so that a chain of ten thousand nodes needs no recursion.
Regions of nodes (branch, loop, map, race) are in `helium_jax.plan.control`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from helium_jax.plan.template import Text
from helium_jax.text.grammar_spec import GrammarSpec
from helium_jax.types import SamplingParams

Value = str | int | float | bool
ValueType = Literal["text", "int", "float", "bool"]
Role = Literal["system", "user", "assistant"]
OnError = Literal["fail", "empty", "default"]
SliceUnit = Literal["chars", "words", "lines"]
ViewKind = Literal["text", "history", "echo", "last"]

VALUE_TYPES: tuple[ValueType, ...] = ("text", "int", "float", "bool")
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A column: one value per row, given when the plan runs."""

    name: str
    type: ValueType = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A value per run, the same for every row.

    Attributes:
        default: None means that every run must give it.
        min: least value of an int or float.
        max: greatest value of an int or float.
    """

    name: str
    type: ValueType = "text"
    default: Value | None = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Const:
    """A value that is part of the plan; a tuple is a column with one value per row."""

    name: str
    value: Value | tuple[Value, ...]

    @property
    def is_column(self) -> bool:
        return isinstance(self.value, tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A text put together from literals and other values."""

    name: str
    text: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """What one operator's calls may share with others.

    Attributes:
        results: one call's answer may serve equal deterministic calls.
        kv: prompts may share KV pages with other calls.
    """

    results: bool = True
    kv: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How a language model is called.

    Attributes:
        sampling: as the engine takes it; greedy by default, because a plan is a query.
        model: the name of the model that must answer; None: the one that is served.
        stop: strings that end the answer and are not part of it.
        response_format: what the answer must look like; None for any text.
        priority: lower runs sooner.
        cache: what the calls may share.
        retries: how often a call that failed is made again.
        timeout_s: seconds that one attempt may take from the moment its prompt is ready.
        on_error: what a call that failed for good does: fail its row, or have the empty text or
            `default` as its value.
        default: the value of a failed call with on_error "default".
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    model: str | None = None
    stop: tuple[str, ...] = ()
    response_format: GrammarSpec | None = None
    priority: int = 0
    cache: CachePolicy = CachePolicy()
    retries: int = 0
    timeout_s: float | None = None
    on_error: OnError = "fail"
    default: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A call with messages, through the model's chat template.

    Attributes:
        history: a chat whose whole conversation, its answer included, comes before `messages`: the
            name of a Chat, or of a carried name that begins and goes on with chats.
    """

    name: str
    messages: tuple[Message, ...]
    settings: CallSettings = CallSettings()
    history: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A call with a bare prompt."""

    name: str
    prompt: Text
    settings: CallSettings = CallSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A Python function that a library's plan may call; a plan file cannot hold one.

    Attributes:
        name: stands for the function in signatures and EXPLAIN: one name, one function.
        call: takes the texts of the arguments and returns a text.
        is_pure: equal texts give an equal text, so that it need not be called twice.
    """

    name: str
    call: Callable[..., str]
    is_pure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lambda:
    """A function of the values named in `args`, in this order; never called before it is needed."""

    name: str
    function: Function
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a text, with Python's rules for `start` and `stop`.

    Attributes:
        unit: words are what white space separates and are joined by one space; lines are joined by
            line breaks.
    """

    name: str
    source: str
    start: int | None = None
    stop: int | None = None
    unit: SliceUnit = "chars"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat:
    """The values of `sources`, in this order, with `separator` between them."""

    name: str
    sources: tuple[str, ...]
    separator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Another look at one call: derived from it, never a call of its own.

    Attributes:
        source: a Chat or Completion, or a carried name that begins and goes on with such.
        kind: "text" is the answer; "history" all messages, the answer as the assistant's last, as
            a JSON list of {"role", "content"}; "last" the last of them as a JSON object; "echo"
            the prompt and the answer as one text: directly for a completion, the contents of all
            messages with blank lines between them for a chat. A completion's prompt counts as
            one user message.
    """

    name: str
    source: str
    kind: ViewKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A result of the plan: the value of `source`, under a name of its own."""

    name: str
    source: str


Source = Input | Param
