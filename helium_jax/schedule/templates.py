"""Prompts with slots as runs of token ids and slots.

The leading text that is the same for every row is exact to the token, because it is warmed and
counted on; behind the first slot, tokens where values and texts melt together are left out of
account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from helium_jax.errors import RequestError
from helium_jax.physical import Turn
from helium_jax.plan import Slot
from helium_jax.schedule.call_graph import Segment
from helium_jax.schedule.prefix_tree import Ids

# Values that begin in different ways, so that a token that would swallow the end of the text
# before it differs between at least two of them.
FILLERS = ("", "a", "Zq", "0", " ", "\n", ".", "é", "of the context")

# Stands for a value: a control character that no tokenizer joins with others, no template trims.
_MARK = "\x01"
_FOLLOWERS = (*map(chr, range(32, 127)), "\n", "\t", "é", "’", "中")
_TAIL_CHARS = 24


class PromptEncoder(Protocol):
    """What is needed of a model's text; see `executor.TextCodec`."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]: ...

    def encode(self, text: str) -> Sequence[int]: ...


class TemplateMaker:
    """Makes the templates of one plan; remembers what equal beginnings gave."""

    def __init__(self, codec: PromptEncoder) -> None:
        self._codec = codec
        self._beginnings: dict[tuple[Turn, ...], list[Sequence[int]]] = {}
        self._unstable: dict[str, int] = {}

    def make(self, turns: tuple[Turn, ...]) -> list[Ids | Segment]:
        """The prompt as runs of ids and slots.

        A slot's length is what it adds to that of its value: tokens before the first slot that its
        value may change. A prompt that the chat template refuses has slots only.
        """
        names = [part.name for turn in turns for part in turn.content if isinstance(part, Slot)]
        slots = [Segment(key=name, num_tokens=0.0, is_static=False) for name in names]
        try:
            ids = tuple(_encode(self._codec, turns, _MARK))
            num_leading = self._count_leading(ids, turns) if slots else len(ids)
        except RequestError:  # each of its rows will fail for that
            return [*slots]
        if not slots:
            return [ids]
        mark = self._codec.encode(_MARK)[-1]
        places = [place for place, token in enumerate(ids) if token == mark]
        if len(places) != len(slots):  # the text has marks of its own, or the tokenizer joined some
            rest = Segment(key="", num_tokens=len(ids) - num_leading, is_static=True)
            return [ids[:num_leading], *slots, rest]
        num_leading = min(num_leading, places[0])
        slots[0] = replace(slots[0], num_tokens=float(places[0] - num_leading))
        template: list[Ids | Segment] = [ids[:num_leading]]
        for slot, start, end in zip(slots, places, [*places[1:], len(ids)], strict=True):
            template += [slot, ids[start + 1 : end]]
        return template

    def count_static_prefix(self, turns: tuple[Turn, ...]) -> int:
        """Leading prompt tokens that do not depend on the row.

        Raises:
            RequestError: the chat template refuses the messages.
        """
        return self._count_leading(_encode(self._codec, turns, _MARK), turns)

    def _count_leading(self, marked: Sequence[int], turns: tuple[Turn, ...]) -> int:
        """How far the prompt with marks agrees with prompts of other values.

        Those need to go on to the first slot only. Its text's end is tried with every character
        that may follow.
        """
        beginning = _beginning(turns)
        if beginning is None:
            return len(marked)
        if beginning not in self._beginnings:
            prompts = [_encode(self._codec, beginning, filler) for filler in FILLERS]
            self._beginnings[beginning] = prompts
        length = common_length([marked, *self._beginnings[beginning]])
        if (mark := self._codec.encode(_MARK)[-1]) in marked:
            text = beginning[-1].content[0]
            tail = text[-_TAIL_CHARS:] if isinstance(text, str) else ""
            length = min(length, marked.index(mark) - self._count_unstable(tail))
        return max(0, length)

    def _count_unstable(self, tail: str) -> int:
        """How many of a text's last tokens change with the character that follows."""
        if not tail:
            return 0
        if tail not in self._unstable:
            alone = self._codec.encode(tail)
            followed = (self._codec.encode(tail + character) for character in _FOLLOWERS)
            kept = min(common_length([alone, ids]) for ids in followed)
            self._unstable[tail] = len(alone) - kept
        return self._unstable[tail]


def _beginning(turns: tuple[Turn, ...]) -> tuple[Turn, ...] | None:
    """The turns up to the first slot, which is called like any other; None without slots."""
    for index, turn in enumerate(turns):
        for place, part in enumerate(turn.content):
            if isinstance(part, Slot):
                content = (*turn.content[:place], Slot(name="value"))
                return (*turns[:index], replace(turn, content=content))
    return None


def _encode(codec: PromptEncoder, turns: tuple[Turn, ...], filler: str) -> Sequence[int]:
    texts = [
        "".join(filler if isinstance(part, Slot) else part for part in turn.content)
        for turn in turns
    ]
    if turns[0].role is None:
        return codec.encode("".join(texts))
    pairs = zip(turns, texts, strict=True)
    return codec.encode_chat([{"role": t.role or "", "content": text} for t, text in pairs])


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for ids in zip(*prompts, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return length
