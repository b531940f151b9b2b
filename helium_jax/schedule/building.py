"""Physical plan to call graph: prompts become templates of token ids and slots.

Leading text that is the same for every row is exact to the token, because it is warmed and counted
on; what stands behind a slot is estimated where tokens of values and texts may melt together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from helium_jax.errors import RequestError
from helium_jax.physical import Apply, Generate, Hold, PhysicalPlan, Turn
from helium_jax.plan import Slot, Text
from helium_jax.schedule.call_graph import CallGraph, CallNode, Segment
from helium_jax.schedule.prefix_tree import (
    Ids,
    PrefixTree,
    Template,
    build_prefix_tree,
    digest_ids,
)

# Values that begin in different ways, so that a token that would swallow the end of the text
# before it differs between at least two of them.
FILLERS = ("", "a", "Zq", "0", " ", "\n", ".", "é", "of the context")

# Stands for a value: a control character that no tokenizer joins with others, no template trims.
_MARK = "\x01"
_FOLLOWERS = [chr(code) for code in range(32, 127)] + list("\n\t\u00e9\u2019\u4e2d")
_TAIL_CHARS = 24
_MAX_PARTS = 4096  # of a text with all others written out; beyond it they stay slots
_SAMPLED_ROWS = 8
_SAMPLED_CHARS = 2000
_DEFAULT_TOKENS = 64.0  # of a value nothing is known about


class PromptEncoder(Protocol):
    """What is needed of a model's text; see `executor.TextCodec`."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]: ...

    def encode(self, text: str) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCalls:
    """What planning takes from a physical plan.

    Attributes:
        graph: for policies.
        tree: for EXPLAIN, and for the token ids of static prefixes.
    """

    graph: CallGraph
    tree: PrefixTree


def build_call_graph(
    physical: PhysicalPlan,
    codec: PromptEncoder,
    estimates: Mapping[str, float],
    num_rows: int,
    columns: Mapping[str, Sequence[str]],
) -> PlannedCalls:
    """The calls of a plan over a batch, and the tree of their prompts.

    Args:
        physical: the plan.
        codec: the model's text.
        estimates: tokens of the values of operators, of calls above all; `Profile` has them.
        num_rows: rows of the batch.
        columns: values of every column that is known beforehand, under its operator's name.
    """
    lengths = _Lengths(codec, physical, estimates, columns)
    groups = {name: _number(values) for name, values in columns.items()}
    groups = {n: values for n, values in groups.items() if max(values, default=0) + 1 < num_rows}
    flat = _Flatten(physical)
    templates: dict[str, Template] = {}
    for call in physical.calls:
        turns = tuple(Turn(role=t.role, content=flat(t.content)) for t in call.turns)
        templates[call.name] = [
            part
            if isinstance(part, tuple) or part.is_static
            else replace(
                part,
                num_tokens=part.num_tokens + lengths[part.key],
                group=part.key if part.key in groups else "",
            )
            for part in _template(codec, turns)
        ]
    needs = _nearest_calls(physical)
    tree = build_prefix_tree(templates, {name: needs[name] for name in templates})
    nodes = tuple(
        CallNode(
            name=call.name,
            segments=tree.segments(call.name),
            needs=needs[call.name],
            output_tokens=lengths[call.name],
            role=_role(call, tree),
        )
        for call in physical.calls
    )
    used = {s.group for node in nodes for s in node.segments if s.group}
    values = {name: groups[name] for name in groups if name in used}
    return PlannedCalls(graph=CallGraph(nodes=nodes, num_rows=num_rows, values=values), tree=tree)


def count_static_prefix(codec: PromptEncoder, turns: tuple[Turn, ...]) -> int:
    """Leading prompt tokens that do not depend on the row.

    Found by encoding the prompt with different values in its slots: the longest common prefix. The
    end of the text before the first slot is tried with every character that may follow.

    Raises:
        RequestError: the chat template refuses the messages.
    """
    if not any(isinstance(part, Slot) for turn in turns for part in turn.content):
        return len(_encode(codec, turns, ""))
    marked = _encode(codec, turns, _MARK)
    length = _common_prefix([marked, *(_encode(codec, turns, filler) for filler in FILLERS)])
    if (mark := codec.encode(_MARK)[-1]) in marked:
        length = min(length, marked.index(mark) - _count_unstable(codec, _before_slot(turns)))
    return max(0, length)


def _before_slot(turns: tuple[Turn, ...]) -> str:
    """The end of the text directly before the first slot, within its turn."""
    content = next(t.content for t in turns if any(isinstance(part, Slot) for part in t.content))
    first = content[0]
    return first[-_TAIL_CHARS:] if isinstance(first, str) else ""


def _count_unstable(codec: PromptEncoder, tail: str) -> int:
    """How many of a text's last tokens change with the character that follows."""
    alone = codec.encode(tail)
    followed = (codec.encode(tail + character) for character in _FOLLOWERS)
    return len(alone) - min(_common_prefix([alone, ids]) for ids in followed) if tail else 0


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    length = 0
    for ids in zip(*prompts, strict=False):
        if len(set(ids)) > 1:
            break
        length += 1
    return length


def _template(codec: PromptEncoder, turns: tuple[Turn, ...]) -> list[Ids | Segment]:
    """The prompt as runs of ids and slots; a slot's length is what it adds to its value's."""
    names = [part.name for turn in turns for part in turn.content if isinstance(part, Slot)]
    slots = [Segment(key=name, num_tokens=0.0, is_static=False) for name in names]
    try:
        ids = tuple(_encode(codec, turns, _MARK))
        num_leading = count_static_prefix(codec, turns)
    except RequestError:  # each of its rows will fail for that
        return [*slots]
    if not slots:
        return [ids]
    mark = codec.encode(_MARK)[-1]
    places = [place for place, token in enumerate(ids) if token == mark]
    if len(places) != len(slots):  # the text has marks of its own, or the tokenizer joined some
        rest = Segment(key="", num_tokens=len(ids) - num_leading, is_static=True)
        return [ids[:num_leading], *slots, rest]
    # Tokens before the first slot that its value may change count with the value.
    slots[0] = replace(slots[0], num_tokens=float(max(0, places[0] - num_leading)))
    template: list[Ids | Segment] = [ids[: min(num_leading, places[0])]]
    for slot, start, end in zip(slots, places, [*places[1:], len(ids)], strict=True):
        template += [slot, ids[start + 1 : end]]
    return template


def _encode(codec: PromptEncoder, turns: tuple[Turn, ...], filler: str) -> Sequence[int]:
    texts = [
        "".join(filler if isinstance(part, Slot) else part for part in turn.content)
        for turn in turns
    ]
    if turns[0].role is None:
        return codec.encode("".join(texts))
    pairs = zip(turns, texts, strict=True)
    return codec.encode_chat([{"role": t.role or "", "content": text} for t, text in pairs])


class _Flatten:
    """Writes texts out in each other, as far as that stays reasonable."""

    def __init__(self, physical: PhysicalPlan) -> None:
        self._texts: dict[str, Text] = {}
        for op in physical.operators:
            match op:
                case Apply(name=name, text=text):
                    flat = self(text)
                    if len(flat) <= _MAX_PARTS:
                        self._texts[name] = flat
                case Hold(name=name, values=(value, *_), is_column=False):
                    self._texts[name] = (value,)
                case _:
                    pass

    def __call__(self, text: Text) -> Text:
        parts: list[str | Slot] = []
        for part in text:
            if isinstance(part, Slot) and part.name in self._texts:
                parts += self._texts[part.name]
            else:
                parts.append(part)
        return tuple(parts)


class _Lengths:
    """Expected tokens of the value of any operator; never zero for what is not known."""

    def __init__(
        self,
        codec: PromptEncoder,
        physical: PhysicalPlan,
        estimates: Mapping[str, float],
        columns: Mapping[str, Sequence[str]],
    ) -> None:
        self._codec = codec
        self._physical = physical
        self._estimates = estimates
        self._columns = columns
        self._known: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self._known:
            self._known[name] = self._estimate(name)
        return self._known[name]

    def _estimate(self, name: str) -> float:
        if name in self._columns:
            return _mean_tokens(self._codec, self._columns[name])
        if name in self._estimates:
            return self._estimates[name]
        for call in self._physical.calls:
            if call.name == name:
                return float(call.settings.sampling.max_tokens or _DEFAULT_TOKENS)
        return _DEFAULT_TOKENS


def _mean_tokens(codec: PromptEncoder, values: Sequence[str]) -> float:
    """Mean length of a column, from the beginnings of some of its values."""
    if not values:
        return _DEFAULT_TOKENS
    num_special = len(codec.encode(""))
    sample = values[:: -(-len(values) // _SAMPLED_ROWS)]
    beginnings = [value[:_SAMPLED_CHARS] for value in sample]
    num_tokens = sum(len(codec.encode(text)) - num_special for text in beginnings)
    num_chars = sum(map(len, beginnings))
    if not num_chars:
        return 0.0
    return num_tokens / num_chars * sum(map(len, values)) / len(values)


def _number(values: Sequence[str]) -> tuple[int, ...]:
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)


def _nearest_calls(physical: PhysicalPlan) -> dict[str, tuple[str, ...]]:
    """For every operator the calls it waits for with no other call in between."""
    calls = {call.name for call in physical.calls}
    nearest: dict[str, tuple[str, ...]] = {}
    # In an order in which everything comes after what it needs, names that loops bind included.
    for name, needs in physical.needs.items():
        found: dict[str, None] = {}
        for need in needs:
            found.update(dict.fromkeys((need,) if need in calls else nearest[need]))
        nearest[name] = tuple(found)
    return nearest


def _role(call: Generate, tree: PrefixTree) -> str:
    """The agent: who has the same system message, else the same beginning, is the same one."""
    first = call.turns[0]
    if first.role == "system" and not any(isinstance(part, Slot) for part in first.content):
        return digest_ids("".join(map(str, first.content)).encode("utf-8", "replace"))
    prefix = tree.static_prefix(call.name)
    return digest_ids(prefix) if prefix else call.name
