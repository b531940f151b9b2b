"""Prompts with slots as runs of token ids and slots.

The leading text that is the same for every row is exact to the token, because it is warmed and
counted on; behind the first slot, tokens where values and texts melt together are left out of
account.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from helium_jax.errors import RequestError
from helium_jax.physical import Turn
from helium_jax.plan import Slot, Text
from helium_jax.schedule.call_graph import Segment
from helium_jax.schedule.prefix_tree import Ids

# Values that begin in different ways, so that a token that would swallow the end of the text
# before it differs between at least two of them.
FILLERS = ("", "a", "0", " ", "\n", ".")

# Stands for a value: a control character that no tokenizer joins with others, no template trims.
_MARK = "\x01"
_FOLLOWERS = (*map(chr, range(32, 127)), "\n", "\t", "é", "’", "中")
_BETWEEN = 4  # tokens before a slot that are looked at
_TAIL = re.compile(r" ?\S{1,24}\s{0,4}\Z")  # the last word: tokens do not reach beyond it


class PromptEncoder(Protocol):
    """What is needed of a model's text; see `executor.TextCodec`."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]: ...

    def encode(self, text: str) -> Sequence[int]: ...


class TemplateMaker:
    """Makes the templates of one plan; remembers what equal endings gave."""

    def __init__(self, codec: PromptEncoder) -> None:
        self._codec = codec
        self._unstable: dict[tuple[Turn, ...] | Ids, int] = {}  # by the endings of beginnings
        self._followed: dict[str, int] = {}  # by last words: tokens that a character may change

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
        """Tokens before the first mark, without those that another value would change."""
        mark = self._codec.encode(_MARK)[-1]
        ending = _ending(turns)
        if ending is None:
            return len(marked)
        if mark not in marked:
            prompts = [_encode(self._codec, turns, filler) for filler in FILLERS]
            return common_length([marked, *prompts])
        place = marked.index(mark)
        known = self._unstable
        # Where a slot begins its turn, the chat template's tokens stand between it and what the
        # turns before say: enough of them, and it does not matter what that is.
        between = tuple(marked[max(place - _BETWEEN, 0) : place])
        begins = isinstance(ending[-1].content[0], Slot)
        key = between if begins and known.get(between, _BETWEEN) < _BETWEEN else ending
        if key not in known:
            known[key] = self._count_unstable(ending, mark)
            if begins:
                known[between] = known[key]
        return max(0, place - known[key])

    def _count_unstable(self, ending: tuple[Turn, ...], mark: int) -> int:
        """How many tokens before a prompt's first slot change with its value.

        Values and what the chat template makes of them are tried with whole prompts; every
        character that may follow the last word of the text with that alone.
        """
        marked = _encode(self._codec, ending, _MARK)
        prompts = [_encode(self._codec, ending, filler) for filler in FILLERS]
        unstable = marked.index(mark) - common_length([marked, *prompts])
        text = ending[-1].content[0]
        if isinstance(text, str):
            if text not in self._followed:
                alone = self._codec.encode(text)
                followed = (self._codec.encode(text + character) for character in _FOLLOWERS)
                kept = min(common_length([alone, ids]) for ids in followed)
                self._followed[text] = len(alone) - kept
            unstable = max(unstable, self._followed[text])
        return unstable


def _ending(turns: tuple[Turn, ...]) -> tuple[Turn, ...] | None:
    """The turns up to the first slot, which ends them, with the last words of their texts only.

    That makes prompts that end alike equal, and short: where the slot follows a whole word of its
    turn, no token reaches to the turns before it, whatever they say. None without slots.
    """
    for index, turn in enumerate(turns):
        for place, part in enumerate(turn.content):
            if isinstance(part, Slot):
                text = turn.content[:place]
                before = _last_word(text)
                last = replace(turn, content=(*before, Slot(name="value")))
                has_word = before != text
                earlier = (
                    replace(t, content=("x",) if has_word else _last_word(t.content))
                    for t in turns[:index]
                )
                return (*earlier, last)
    return None


def _last_word(text: Text) -> Text:
    """The end of a text without slots: tokens do not reach over the space before it."""
    word = _TAIL.search("".join(map(str, text)))
    return (word[0],) if word else text


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
