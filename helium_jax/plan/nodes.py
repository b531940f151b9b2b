"""The nodes of a plan: frozen values that name each other, never hold each other.

A node refers to its inputs by name, so that a plan with a wrong name or a cycle can be built, shown
and refused with a good message, and so that a chain of ten thousand nodes needs no recursion.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from helium_jax.plan.template import Slot, Text, slot_names
from helium_jax.types import SamplingParams

Value = str | int | float | bool
ValueType = Literal["text", "int", "float", "bool"]
Role = Literal["system", "user", "assistant"]
Signature = str

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
        stop: strings that end the answer and are not part of it.
        priority: lower runs sooner.
        cache: what the calls may share.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    priority: int = 0
    cache: CachePolicy = CachePolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A call with messages, through the model's chat template."""

    name: str
    messages: tuple[Message, ...]
    settings: CallSettings = CallSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A call with a bare prompt."""

    name: str
    prompt: Text
    settings: CallSettings = CallSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A result of the plan: the value of `source`, under a name of its own."""

    name: str
    source: str


Op = Const | Template | Chat | Completion
Source = Input | Param
Node = Source | Op


def references(node: Node) -> tuple[str, ...]:
    """The names a node needs, each once, in order of their first use."""
    match node:
        case Input() | Param() | Const():
            return ()
        case Template(text=text) | Completion(prompt=text):
            return slot_names(text)
        case Chat(messages=messages):
            return slot_names(tuple(part for message in messages for part in message.content))


def is_call(node: Node) -> bool:
    """Whether the node calls a language model."""
    return isinstance(node, Chat | Completion)


def is_deterministic(node: Node) -> bool:
    """Whether equal inputs always give equal values: everything but sampling without a seed."""
    return not isinstance(node, Chat | Completion) or node.settings.sampling.is_deterministic


def rename_references(op: Op, names: Mapping[str, str]) -> Op:
    """The operator with its references replaced; `op` itself when none is in `names`."""
    if not any(name in names for name in references(op)):
        return op

    def rename(text: Text) -> Text:
        return tuple(
            Slot(name=names.get(part.name, part.name)) if isinstance(part, Slot) else part
            for part in text
        )

    match op:
        case Template(name=name, text=text):
            return Template(name=name, text=rename(text))
        case Completion(name=name, prompt=prompt, settings=settings):
            return Completion(name=name, prompt=rename(prompt), settings=settings)
        case Chat(name=name, messages=messages, settings=settings):
            turns = tuple(Message(role=m.role, content=rename(m.content)) for m in messages)
            return Chat(name=name, messages=turns, settings=settings)
        case Const():
            return op


def sign(node: Node, signatures: Mapping[str, Signature]) -> Signature:
    """The node's signature, from those of its inputs: equal signatures mean equal values.

    An operator's own name is no part of it, unless it draws: two draws are two values.
    """

    def spell(text: Text) -> tuple[object, ...]:
        return tuple(
            ("slot", signatures[part.name]) if isinstance(part, Slot) else part for part in text
        )

    identity: tuple[object, ...]
    match node:
        case Input(name=name, type=type_):
            identity = ("input", name, type_)
        case Param(name=name, type=type_):
            identity = ("param", name, type_)
        case Const(value=value):
            identity = ("const", value)
        case Template(text=text):
            identity = ("template", spell(text))
        case Completion(prompt=prompt, settings=settings):
            identity = ("completion", spell(prompt), settings.sampling, settings.stop)
        case Chat(messages=messages, settings=settings):
            turns = tuple((message.role, spell(message.content)) for message in messages)
            identity = ("chat", turns, settings.sampling, settings.stop)
    if not is_deterministic(node):
        identity = ("draw", node.name, identity)
    # repr tells 1 from 1.0 from True and quotes strings, so no two identities spell the same.
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()
