"""Physical plan to call graph: what the calls' prompts are made of, and who waits for whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from helium_jax.physical import Apply, Generate, Hold, Loop, PhysicalPlan, Turn
from helium_jax.plan import Slot, Text
from helium_jax.schedule.call_graph import CallGraph, CallNode, Segment
from helium_jax.schedule.expectations import expect_repeats, expect_tokens
from helium_jax.schedule.prefix_tree import PrefixTree, Template, build_prefix_tree, digest_ids
from helium_jax.schedule.templates import PromptEncoder, TemplateMaker

_MAX_PARTS = 4096  # of a text with all others written out; beyond it they stay slots
_MAX_TURNS = 64  # of a conversation; an earlier beginning is a slot

NO_REPEATS: Mapping[str, float] = {}


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
    repeats: Mapping[str, float] = NO_REPEATS,
) -> PlannedCalls:
    """The calls of a plan over a batch, and the tree of their prompts.

    Calls in regions are there once, with the executions to expect; their prompts are those of the
    first one.

    Args:
        physical: the plan.
        codec: the model's text.
        estimates: tokens of the values of operators, of calls above all; `Profile` has them.
        num_rows: rows of the batch.
        columns: values of every column that is known beforehand, under its operator's name.
        repeats: executions per row that earlier runs have shown; only regions leave them open.
    """
    tokens = expect_tokens(physical, codec, estimates, columns)
    outside = {op.name for op in physical.operators}
    times = expect_repeats(physical)
    times |= {name: seen for name, seen in repeats.items() if name not in outside}
    groups = {name: _number(values) for name, values in columns.items()}
    groups = {n: values for n, values in groups.items() if max(values, default=0) + 1 < num_rows}

    def filled(part: Segment) -> Segment:
        group = part.key if part.key in groups else ""
        return replace(part, num_tokens=part.num_tokens + tokens[part.key], group=group)

    texts, maker = _Texts(physical), TemplateMaker(codec)
    templates: dict[str, Template] = {
        call.name: [
            part if isinstance(part, tuple) or part.is_static else filled(part)
            for part in maker.make(texts.turns(call))
        ]
        for call in physical.calls
    }
    needs = _nearest_calls(physical)
    tree = build_prefix_tree(templates, {name: needs[name] for name in templates})
    nodes = tuple(
        CallNode(
            name=call.name,
            segments=tree.segments(call.name),
            needs=needs[call.name],
            output_tokens=tokens[call.name],
            role=_role(texts.turns(call)[0], tree, call.name),
            repeats=times[call.name],
        )
        for call in physical.calls
    )
    used = {s.group for node in nodes for s in node.segments if s.group}
    values = {name: groups[name] for name in groups if name in used}
    return PlannedCalls(graph=CallGraph(nodes=nodes, num_rows=num_rows, values=values), tree=tree)


class _Texts:
    """Writes texts and conversations out in each other, as far as that stays reasonable."""

    def __init__(self, physical: PhysicalPlan) -> None:
        self._flat: dict[str, Text] = {}
        self._initial: dict[str, str] = {}
        self._turns: dict[str, tuple[Turn, ...]] = {}
        for op in physical.all_operators:
            match op:
                case Apply(name=name, text=text):
                    flat = self._flatten(text)
                    if len(flat) <= _MAX_PARTS:
                        self._flat[name] = flat
                case Hold(name=name, values=(value, *_), is_column=False):
                    self._flat[name] = (value,)
                case Loop(carried=carried):
                    self._initial |= {one.name: one.initial for one in carried}
                case _:
                    pass
        for call in physical.calls:
            self._turns[call.name] = self._write_out(call)

    def turns(self, call: Generate) -> tuple[Turn, ...]:
        """The conversation of a call from its first turn."""
        return self._turns[call.name]

    def _write_out(self, call: Generate) -> tuple[Turn, ...]:
        own = tuple(replace(turn, content=self._flatten(turn.content)) for turn in call.turns)
        if call.history is None:
            return own
        origin = call.history
        while origin in self._initial:
            origin = self._initial[origin]
        answer = Turn(role="assistant", content=(Slot(name=call.history),))
        earlier = self._turns.get(origin, ())
        if len(earlier) + len(own) >= _MAX_TURNS:
            earlier = ()
        return (*earlier, answer, *own)

    def _flatten(self, text: Text) -> Text:
        parts: list[str | Slot] = []
        for part in text:
            if isinstance(part, Slot):
                parts += self._flat.get(part.name, (part,))
            else:
                parts.append(part)
        return tuple(parts)


def _number(values: Sequence[str]) -> tuple[int, ...]:
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)


def _nearest_calls(physical: PhysicalPlan) -> dict[str, tuple[str, ...]]:
    """For every name the calls it waits for with no other call in between."""
    calls = {call.name for call in physical.calls}
    nearest: dict[str, tuple[str, ...]] = {}
    for name in TopologicalSorter(physical.needs).static_order():
        found: dict[str, None] = {}
        for need in physical.needs[name]:
            found.update(dict.fromkeys((need,) if need in calls else nearest[need]))
        nearest[name] = tuple(found)
    return nearest


def _role(first: Turn, tree: PrefixTree, name: str) -> str:
    """The agent: who has the same system message, else the same beginning, is the same one."""
    if first.role == "system" and not any(isinstance(part, Slot) for part in first.content):
        return digest_ids("".join(map(str, first.content)).encode("utf-8", "replace"))
    prefix = tree.static_prefix(name)
    return digest_ids(prefix) if prefix else name
