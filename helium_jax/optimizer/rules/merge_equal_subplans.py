"""Equal deterministic subplans become one."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import Note, Rewriting, is_repeatable
from helium_jax.plan import (
    CachePolicy,
    Chat,
    Completion,
    Loop,
    Op,
    Plan,
    Signature,
    bodies,
    body_order,
    bound_names,
    references,
    rename_references,
    replace_bodies,
    sign,
)
from helium_jax.plan.control import walk
from helium_jax.plan.graph import reachable
from helium_jax.plan.signature import bound_signature


def merge_equal_subplans(plan: Plan, facts: Facts) -> Rewriting:
    """Shares one operator between equal ones; in one pass, because it goes from inputs to outputs.

    Rewrite:       {x: f(a), y: f(a)}  ->  {x: f(a)}, with x in the place of y everywhere
                   {x: f(a), loop 3 times {y: f(a), z: g(y, s)}}  ->  {x: f(a), loop {z: g(x, s)}}
    Legal when:    f gives equal values for equal inputs: it is no call, or greedy, or seeded where
                   the engine is deterministic; samples stay apart, because two draws are two
                   values, and so do races that time decides and impure functions. Equal means
                   everything that can change a value: prompts, sampling, stops, and also retries,
                   timeout and on_error, for they decide about a failure. Calls with a cache policy
                   of their own stay apart. From a body to a scope around it: the body runs at
                   least once whatever happens, or what holds it waits for that value anyway;
                   otherwise a failing x would fail rows that never needed y. And x does not need
                   the value of what holds y.
    Pays off when: always; one call instead of two, and prefixes shared with one operator instead
                   of with two. The more urgent priority stays.
    """
    merge = _Merge(plan, facts)
    ops = merge.scope(plan.ops, ())
    if not merge.renamed:
        return Rewriting(plan=plan)
    outputs = tuple(
        dataclasses.replace(output, source=merge.renamed.get(output.source, output.source))
        for output in plan.outputs
    )
    return Rewriting(
        plan=dataclasses.replace(plan, ops=ops, outputs=outputs),
        notes=tuple(
            Note(operator=name, reason=f"computes the same as {kept}")
            for name, kept in merge.renamed.items()
        ),
        merged=merge.renamed,
    )


@dataclass(slots=True)
class _Scope:
    """A scope around the one being merged, and which of its operators we are inside of.

    Attributes:
        ops: what is left of the scope, by name.
        first: its operators by signature.
        holder: the operator that holds the body being merged.
        always: whether that body runs whenever its holder does.
    """

    ops: dict[str, Op]
    first: Mapping[Signature, str]
    holder: str
    always: bool


class _Merge:
    """One application of the rule. Names are unique in a plan, so one table serves all scopes."""

    def __init__(self, plan: Plan, facts: Facts) -> None:
        self._facts = facts
        self._signatures = {node.name: sign(node, {}) for node in (*plan.inputs, *plan.params)}
        self.renamed: dict[str, str] = {}

    def scope(self, ops: Iterable[Op], around: tuple[_Scope, ...]) -> tuple[Op, ...]:
        """The operators of one scope without those that others stand for."""
        ops = tuple(ops)
        first: dict[Signature, str] = {}
        kept: dict[str, Op] = {}
        for op in body_order(ops):
            if self.renamed:
                op = rename_references(op, self.renamed)
            signature = self._sign(op)
            if signature in first:
                twin = first[signature]
                self.renamed[op.name] = twin
                kept[twin] = _more_urgent(kept[twin], op)
            elif (home := _find(signature, around)) is not None:
                twin = home.first[signature]
                self.renamed[op.name] = twin
                home.ops[twin] = _more_urgent(home.ops[twin], op)
            else:
                first[signature] = op.name
                kept[op.name] = op
        for name in [*kept]:
            kept[name] = self._inside(kept, name, first, around)
        return tuple(kept[op.name] for op in ops if op.name in kept)

    def _inside(
        self,
        kept: dict[str, Op],
        name: str,
        first: Mapping[Signature, str],
        around: tuple[_Scope, ...],
    ) -> Op:
        """The operator with its bodies merged."""
        op = kept[name]
        if not bodies(op):
            return op
        self._signatures |= {bound: bound_signature(bound) for bound in bound_names(op)}
        always = isinstance(op, Loop) and isinstance(op.count, int) and op.count > 0
        here = _Scope(ops=kept, first=first, holder=name, always=always)
        merged = tuple(
            dataclasses.replace(body, ops=self.scope(body.ops, (*around, here)))
            for body in bodies(op)
        )
        # The holder may have become more urgent meanwhile, never its bodies.
        return rename_references(replace_bodies(kept[name], merged), self.renamed)

    def _sign(self, op: Op) -> Signature:
        signature = sign(op, self._signatures)
        if not _may_merge(op, self._facts):
            signature = f"alone {op.name}"  # and nothing that reads it equals anything else
        self._signatures[op.name] = signature
        return signature


def _may_merge(op: Op, facts: Facts) -> bool:
    return is_repeatable((op,), facts) and all(
        inner.settings.cache == CachePolicy()
        for inner in walk((op,))
        if isinstance(inner, Chat | Completion)
    )


def _find(signature: Signature, around: tuple[_Scope, ...]) -> _Scope | None:
    """The innermost scope around whose equal operator may stand for one of a body."""
    for index in reversed(range(len(around))):
        home = around[index]
        twin = home.first.get(signature)
        if twin is None:
            continue
        needs = {name: references(op) for name, op in home.ops.items()}
        if home.holder in reachable(needs, (twin,)):
            continue
        is_certain = all(scope.always for scope in around[index:])
        if is_certain or twin in reachable(needs, (home.holder,)):
            return home
    return None


def _more_urgent(kept: Op, merged: Op) -> Op:
    """The operator that stays, as urgent as the more urgent of the two."""
    if not isinstance(kept, Chat | Completion) or not isinstance(merged, Chat | Completion):
        return kept
    priority = min(kept.settings.priority, merged.settings.priority)
    if priority == kept.settings.priority:
        return kept
    return dataclasses.replace(kept, settings=dataclasses.replace(kept.settings, priority=priority))
