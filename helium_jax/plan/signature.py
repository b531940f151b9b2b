"""Signatures: equal ones mean equal values, whatever the operators are called."""

import hashlib
from collections import ChainMap
from collections.abc import Mapping

from helium_jax.plan.control import (
    BEST_OF_NAME,
    Body,
    Branch,
    Control,
    Loop,
    Map,
    Node,
    Race,
    Reduce,
    is_deterministic,
)
from helium_jax.plan.formula import Formula
from helium_jax.plan.formula_tree import format_tree, rename_tree
from helium_jax.plan.nodes import (
    CallSettings,
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
from helium_jax.plan.references import body_order, references
from helium_jax.plan.template import Slot, Text

Signature = str


def sign(node: Node, signatures: Mapping[str, Signature], *, level: int = 0) -> Signature:
    """The node's signature, from those of the names it needs.

    An operator's own name is no part of it, unless it draws: two draws are two values. Names that
    a loop or map gives to its body count by their place, so that equal loops whose carried names
    differ are equal.

    Args:
        node: what to sign.
        signatures: of every name that `references(node)` has.
        level: how many loops and maps that `signatures` knows by place stand around the node.
    """
    identity = _identity(node, signatures, level)
    if not is_deterministic(node):
        identity = ("draw", node.name, identity)
    # repr tells 1 from 1.0 from True and quotes strings, so no two identities spell the same.
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()


def bound_signature(name: str) -> Signature:
    """What a carried name or an item counts as where the body around it is looked at alone.

    Names are unique in a plan, so no two mean the same value.
    """
    return f"bound {name}"


def _identity(node: Node, signatures: Mapping[str, Signature], level: int) -> tuple[object, ...]:
    def spell(text: Text) -> tuple[object, ...]:
        return tuple(
            ("slot", signatures[part.name]) if isinstance(part, Slot) else part for part in text
        )

    if isinstance(node, Control):  # so that bodies copy no more than they can use
        signatures = {name: signatures[name] for name in references(node)}
    match node:
        case Input(name=name, type=type_):
            return ("input", name, type_)
        case Param(name=name, type=type_):
            return ("param", name, type_)
        case Const(value=value):
            return ("const", value)
        case Template(text=text):
            return ("template", spell(text))
        case Completion(prompt=prompt, settings=settings):
            return ("completion", spell(prompt), _spell_settings(settings))
        case Chat(messages=messages, settings=settings, history=history):
            turns = tuple((message.role, spell(message.content)) for message in messages)
            before = None if history is None else signatures[history]
            return ("chat", before, turns, _spell_settings(settings))
        case Lambda(function=function, args=args):
            return ("lambda", function.name, tuple(signatures[arg] for arg in args))
        case Slice(source=source, start=start, stop=stop, unit=unit):
            return ("slice", signatures[source], start, stop, unit)
        case Concat(sources=sources, separator=separator):
            return ("concat", tuple(signatures[source] for source in sources), separator)
        case View(source=source, kind=kind):
            return ("view", signatures[source], kind)
        case Branch(condition=condition, then=then, otherwise=otherwise):
            arms = tuple(
                None if body is None else _sign_body(body, signatures, level)
                for body in (then, otherwise)
            )
            return ("branch", _spell_formula(condition, signatures), arms)
        case Loop():
            return _loop_identity(node, signatures, level)
        case Map(over=over, item=item, body=body, max_items=max_items, reduce=reduce):
            inside = ChainMap({item: f"item {level}"}, dict(signatures))
            return (
                "map",
                _spell_formula(over, signatures),
                _sign_body(body, inside, level + 1),
                max_items,
                _spell_reduce(reduce, signatures),
            )
        case Race(arms=arms, k=k, reduce=reduce):
            signed = tuple(_sign_body(body, signatures, level) for body in arms)
            return ("race", signed, k, _spell_reduce(reduce, signatures))


def _loop_identity(
    loop: Loop, signatures: Mapping[str, Signature], level: int
) -> tuple[object, ...]:
    places = {one.name: f"carried {level} {index}" for index, one in enumerate(loop.carried)}
    inside = ChainMap(places, dict(signatures))
    body = _sign_ops(loop.body, inside, level + 1)
    count = signatures[loop.count] if isinstance(loop.count, str) else loop.count
    condition = None if loop.condition is None else _spell_formula(loop.condition, inside)
    return (
        "loop",
        tuple((signatures[one.initial], body[one.next]) for one in loop.carried),
        body[loop.body.result],
        count,
        condition,
        loop.max_iterations,
    )


def _sign_body(body: Body, signatures: Mapping[str, Signature], level: int) -> Signature:
    """A body is worth its result."""
    return _sign_ops(body, signatures, level)[body.result]


def _sign_ops(
    body: Body, signatures: Mapping[str, Signature], level: int
) -> Mapping[str, Signature]:
    inside: dict[str, Signature] = {}
    visible = ChainMap(inside, dict(signatures))
    for op in body_order(body.ops):
        inside[op.name] = sign(op, visible, level=level)
    return visible


def _spell_formula(formula: Formula, signatures: Mapping[str, Signature]) -> tuple[object, ...]:
    places = {name: f"name{index}" for index, name in enumerate(formula.names)}
    written = format_tree(rename_tree(formula.tree, places))
    return (written, tuple(signatures[name] for name in formula.names))


def _spell_reduce(reduce: Reduce, signatures: Mapping[str, Signature]) -> tuple[object, ...]:
    if reduce.score is None:
        return (reduce.kind, reduce.separator)
    score = _spell_formula(reduce.score, ChainMap({BEST_OF_NAME: "the text"}, dict(signatures)))
    return (reduce.kind, score)


def _spell_settings(settings: CallSettings) -> tuple[object, ...]:
    """What of a call's settings can change its value."""
    on_failure = (settings.retries, settings.timeout_s, settings.on_error, settings.default)
    wanted = (settings.stop, settings.response_format)
    return (settings.model, settings.sampling, wanted, on_failure)
