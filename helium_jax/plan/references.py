"""Which names a node needs, and the same node over other names."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from helium_jax.plan.control import (
    BEST_OF_NAME,
    Body,
    Branch,
    Loop,
    Map,
    Node,
    Op,
    Race,
    Reduce,
    bodies,
    bound_names,
)
from helium_jax.plan.formula import Formula, rename_formula
from helium_jax.plan.graph import topological_order
from helium_jax.plan.nodes import (
    Chat,
    Completion,
    Concat,
    Const,
    Input,
    Lambda,
    Param,
    Slice,
    Template,
    View,
)
from helium_jax.plan.template import Slot, Text, slot_names

T = TypeVar("T")


def references(node: Node) -> tuple[str, ...]:
    """The names a node needs, each once, in order of their first use.

    Those of a branch, loop, map or race are what it and its bodies need from outside.
    """
    names = dict.fromkeys(own_references(node))
    if not isinstance(node, Branch | Loop | Map | Race):
        return tuple(names)
    inside = set(bound_names(node))
    for body in bodies(node):
        inside.update(op.name for op in body.ops)
        for op in body.ops:
            names |= dict.fromkeys(references(op))
        names[body.result] = None
    if isinstance(node, Loop):
        names |= dict.fromkeys(one.next for one in node.carried)
        initial = {one.initial for one in node.carried}
        return tuple(name for name in names if name not in inside or name in initial)
    return tuple(name for name in names if name not in inside)


def own_references(node: Node) -> tuple[str, ...]:
    """The names that a node itself uses where it stands, without those that its bodies use."""
    return tuple(dict.fromkeys(_own(node)))


def _own(node: Node) -> Iterator[str]:
    match node:
        case Input() | Param() | Const():
            pass
        case Template(text=text) | Completion(prompt=text):
            yield from slot_names(text)
        case Chat(messages=messages, history=history):
            if history is not None:
                yield history
            for message in messages:
                yield from slot_names(message.content)
        case Lambda(args=args):
            yield from args
        case Slice(source=source) | View(source=source):
            yield source
        case Concat(sources=sources):
            yield from sources
        case Branch(condition=condition):
            yield from condition.names
        case Loop(carried=carried, count=count, condition=condition):
            yield from (one.initial for one in carried)
            if isinstance(count, str):
                yield count
            if condition is not None:
                bound = {one.name for one in carried}
                yield from (name for name in condition.names if name not in bound)
        case Map(over=over, reduce=reduce):
            yield from over.names
            yield from reduce_names(reduce)
        case Race(reduce=reduce):
            yield from reduce_names(reduce)


def reduce_names(reduce: Reduce) -> tuple[str, ...]:
    """The names that a reduction's score needs besides the text it judges."""
    if reduce.score is None:
        return ()
    return tuple(name for name in reduce.score.names if name != BEST_OF_NAME)


def body_order(ops: Iterable[Op]) -> tuple[Op, ...]:
    """The operators of one scope, each after those of the scope that it needs.

    Those on a cycle, and those that need one of them, are left out.
    """
    by_name = {op.name: op for op in ops}
    order = topological_order({name: references(op) for name, op in by_name.items()})
    return tuple(by_name[name] for name in order)


def rename_references(op: Op, names: Mapping[str, str]) -> Op:
    """The operator, bodies included, with its references replaced; `op` itself when nothing is.

    Names that the operator defines stay: only `rename_all` gives those new names.
    """
    renamed = map_bodies(_rename_own(op, names), lambda one: rename_references(one, names))
    return rename_results(renamed, names)


def rename_all(op: Op, names: Mapping[str, str]) -> Op:
    """The operator with everything renamed: itself, what its bodies define, and references."""

    def rename(one: Op) -> Op:
        renamed = _rename_own(one, names)
        renamed = _same(renamed, name=names.get(one.name, one.name))
        match renamed:
            case Loop(carried=carried):
                new = tuple(_same(c, name=names.get(c.name, c.name)) for c in carried)
                renamed = _same(renamed, carried=_same_tuple(carried, new))
            case Map(item=item):
                renamed = _same(renamed, item=names.get(item, item))
            case _:
                pass
        return rename_results(map_bodies(renamed, rename), names)

    return rename(op)


def _rename_own(op: Op, names: Mapping[str, str]) -> Op:
    """The operator with the references that are not in its bodies renamed."""

    def one(name: str) -> str:
        return names.get(name, name)

    def text(parts: Text) -> Text:
        renamed = tuple(Slot(name=one(p.name)) if isinstance(p, Slot) else p for p in parts)
        return _same_tuple(parts, renamed)

    def formula(given: Formula | None) -> Formula | None:
        return None if given is None else rename_formula(given, names)

    def reduction(reduce: Reduce) -> Reduce:
        if reduce.score is None:
            return reduce
        kept = {name: new for name, new in names.items() if name != BEST_OF_NAME}
        return _same(reduce, score=rename_formula(reduce.score, kept))

    match op:
        case Const():
            return op
        case Template():
            return _same(op, text=text(op.text))
        case Completion():
            return _same(op, prompt=text(op.prompt))
        case Chat(messages=messages, history=history):
            turns = tuple(_same(m, content=text(m.content)) for m in messages)
            turns = _same_tuple(messages, turns)
            return _same(op, messages=turns, history=None if history is None else one(history))
        case Lambda(args=args):
            return _same(op, args=_same_tuple(args, tuple(map(one, args))))
        case Slice() | View():
            return _same(op, source=one(op.source))
        case Concat(sources=sources):
            return _same(op, sources=_same_tuple(sources, tuple(map(one, sources))))
        case Branch():
            return _same(op, condition=formula(op.condition))
        case Loop(carried=carried, count=count):
            new = tuple(_same(c, initial=one(c.initial), next=one(c.next)) for c in carried)
            return _same(
                op,
                carried=_same_tuple(carried, new),
                count=one(count) if isinstance(count, str) else count,
                condition=formula(op.condition),
            )
        case Map():
            return _same(op, over=formula(op.over), reduce=reduction(op.reduce))
        case Race():
            return _same(op, reduce=reduction(op.reduce))


def replace_bodies(op: Op, new: tuple[Body, ...]) -> Op:
    """The operator with other bodies, in the order of `control.bodies`; itself when all are."""
    match op:
        case Branch(otherwise=None):
            return _same(op, then=new[0])
        case Branch():
            return _same(op, then=new[0], otherwise=new[1])
        case Loop() | Map():
            return _same(op, body=new[0])
        case Race(arms=arms):
            return _same(op, arms=_same_tuple(arms, new))
        case _:
            return op


def map_bodies(op: Op, change: Callable[[Op], Op]) -> Op:
    """The operator with every operator directly in its bodies changed; itself when none is."""
    return replace_bodies(
        op,
        tuple(
            _same(body, ops=_same_tuple(body.ops, tuple(map(change, body.ops))))
            for body in bodies(op)
        ),
    )


def rename_next(loop: Loop, names: Mapping[str, str]) -> Loop:
    """The loop with other names for what it carries from one iteration to the next."""
    new = tuple(_same(one, next=names.get(one.next, one.next)) for one in loop.carried)
    return _same(loop, carried=_same_tuple(loop.carried, new))


def rename_results(op: Op, names: Mapping[str, str]) -> Op:
    """The operator with other results of its bodies."""
    return replace_bodies(
        op, tuple(_same(body, result=names.get(body.result, body.result)) for body in bodies(op))
    )


def _same(value: T, **fields: Any) -> T:
    """`value` with other fields, or itself when they are those it has."""
    if all(
        getattr(value, name) is new or getattr(value, name) == new for name, new in fields.items()
    ):
        return value
    return dataclasses.replace(value, **fields)  # type: ignore[type-var]


def _same_tuple(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    """`old` when its entries are those of `new`, so that what is unchanged stays identical."""
    return old if all(a is b or a == b for a, b in zip(old, new, strict=True)) else new
