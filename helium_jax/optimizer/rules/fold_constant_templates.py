"""Texts that are put together from constants alone become constants."""

import dataclasses
from collections import deque
from collections.abc import Mapping

from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import Note, Rewriting
from helium_jax.physical.operators import render_value
from helium_jax.plan import (
    Body,
    Concat,
    Const,
    Op,
    Plan,
    Slot,
    Template,
    Text,
    bodies,
    body_order,
    replace_bodies,
)
from helium_jax.plan.control import walk

# A template may double its constant, and a chain of such templates would fill the memory.
MAX_FOLDED_CHARS = 65_536


def fold_constant_templates(plan: Plan, facts: Facts) -> Rewriting:
    """Writes a template or concatenation of constants out, in the plan and in every body.

    Rewrite:       {c: "b", t: "a {{c}}"}  ->  {c: "b", t: "a b"}
    Legal when:    every slot is a constant with one value for all rows; a column is not.
                   Functions are not run here, and parameters are not known before a run.
    Pays off when: always, up to `MAX_FOLDED_CHARS`; what is constant belongs to the prefix that
                   rows share, and folding shows it to the schedule.
    """
    literals = {
        op.name: render_value(op.value)
        for op in plan.all_ops
        if isinstance(op, Const) and not isinstance(op.value, tuple)
    }
    if not any(isinstance(op, Template | Concat) for op in plan.all_ops):
        return Rewriting(plan=plan)
    folded: dict[str, Op] = {}
    pending = deque(body_order(plan.ops))
    while pending:
        # Each scope in its own order: what a scope needs from outside has been seen by then.
        op = pending.popleft()
        text = _fold(op, literals)
        if text is not None:
            folded[op.name] = Const(name=op.name, value=text)
            literals[op.name] = text
        for body in bodies(op):
            pending += body_order(body.ops)
    if not folded:
        return Rewriting(plan=plan)
    ops = tuple(_replace(op, folded) for op in plan.ops)
    notes = tuple(
        Note(operator=op.name, reason="its parts are constants")
        for op in walk(plan.ops)
        if op.name in folded
    )
    return Rewriting(plan=dataclasses.replace(plan, ops=ops), notes=notes)


def _fold(op: Op, literals: Mapping[str, str]) -> str | None:
    match op:
        case Template(text=text):
            return _join(text, literals)
        case Concat(sources=sources, separator=separator):
            parts: list[str | Slot] = []
            for name in sources:
                parts += [separator, Slot(name=name)] if parts else [Slot(name=name)]
            return _join(tuple(parts), literals)
        case _:
            return None


def _join(text: Text, literals: Mapping[str, str]) -> str | None:
    """The text, or None if a part of it is not known or it is too long."""
    pieces = [literals.get(part.name) if isinstance(part, Slot) else part for part in text]
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces) or sum(map(len, known)) > MAX_FOLDED_CHARS:
        return None
    return "".join(known)


def _replace(op: Op, folded: Mapping[str, Op]) -> Op:
    if op.name in folded:
        return folded[op.name]
    return replace_bodies(op, tuple(_replace_in(body, folded) for body in bodies(op)))


def _replace_in(body: Body, folded: Mapping[str, Op]) -> Body:
    ops = tuple(_replace(op, folded) for op in body.ops)
    return dataclasses.replace(body, ops=ops) if ops != body.ops else body
