"""The values of a run: texts, and what of a call is kept beside its text."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from helium_jax.physical import Slice, View
from helium_jax.plan import Slot, Text
from helium_jax.plan.limits import MAX_VALUE_CHARS

Turns = tuple[tuple[str | None, str], ...]

TOO_LARGE = f"its text would have over {MAX_VALUE_CHARS} characters; shorten what goes into it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A call's value where its conversation is needed later.

    Attributes:
        text: what the model said, up to its stop string.
        turns: (role, text) pairs of the prompt; a bare prompt is one pair with the role None.
        prompt_ids: the prompt as the model saw it; empty when it is not known.
        token_ids: what it generated; empty when it is not known.
    """

    text: str
    turns: Turns
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()

    @property
    def conversation(self) -> Turns:
        """All turns, the answer as the last; a bare prompt counts as the user's."""
        return (*((role or "user", text) for role, text in self.turns), ("assistant", self.text))


Value = str | Answer
Look = Callable[[str], Value]


def text_of(value: Value) -> str:
    """The text of a value."""
    return value if isinstance(value, str) else value.text


def render(text: Text, look: Look) -> str | None:
    """A text with values in its slots; None if it is too long to make."""
    return join([text_of(look(part.name)) if isinstance(part, Slot) else part for part in text])


def join(pieces: list[str], separator: str = "") -> str | None:
    """The pieces as one text; None if it is too long to make."""
    size = sum(map(len, pieces)) + len(separator) * max(len(pieces) - 1, 0)
    return separator.join(pieces) if size <= MAX_VALUE_CHARS else None


def cut(operator: Slice, value: Value) -> str:
    """The part of a text that a slice names."""
    text = text_of(value)
    part = slice(operator.start, operator.stop)
    match operator.unit:
        case "chars":
            return text[part]
        case "words":
            return " ".join(text.split()[part])
        case "lines":
            return "\n".join(text.splitlines()[part])


def view(operator: View, value: Value) -> str | None:
    """Another look at a call; None if it is too long to make."""
    assert isinstance(value, Answer), "the plan remembers every call that has a view"
    messages = [{"role": role, "content": text} for role, text in value.conversation]
    match operator.kind:
        case "text":
            text = value.text
        case "history":
            text = json.dumps(messages, ensure_ascii=False)
        case "last":
            text = json.dumps(messages[-1], ensure_ascii=False)
        case "echo" if value.turns[0][0] is None:
            text = value.turns[0][1] + value.text
        case "echo":
            text = "\n\n".join(content for _, content in value.conversation)
    return text if len(text) <= MAX_VALUE_CHARS else None
