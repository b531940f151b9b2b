"""Replaces operators of a plan, scope by scope, so that references follow."""

from collections.abc import Callable, Sequence, Set

from helium_jax.plan.control import Body, Loop, Op, bodies, walk
from helium_jax.plan.references import (
    body_order,
    rename_next,
    rename_references,
    replace_bodies,
)

Rewrite = Callable[[Op], Op]


class Rewriting:
    """One pass over a plan's operators; good for one pass.

    The operators of a scope are rewritten in topological order before those in their bodies.

    Args:
        ops: of the outermost scope.
        rewrite: gets each operator with its references already following earlier replacements.
    """

    def __init__(self, ops: tuple[Op, ...], rewrite: Rewrite) -> None:
        self._rewrite = rewrite
        self._known = frozenset(op.name for op in walk(ops))
        self.renamed: dict[str, str] = {}  # what was replaced by an operator of another name
        self.ops = self._scope(ops, [])

    def _scope(self, ops: tuple[Op, ...], outer: Sequence[Set[str]]) -> tuple[Op, ...]:
        own = {op.name for op in ops}
        rewritten: dict[str, Op] = {}
        for op in body_order(ops):
            before = rename_references(op, self.renamed)
            after = self._rewrite(before)
            is_outer = any(after.name in names for names in outer)
            if after.name in self._known and after.name not in own and not is_outer:
                after = before  # an operator that cannot be seen from here
                is_outer = False
            if after.name != op.name:
                self.renamed[op.name] = after.name
            if not is_outer:
                rewritten.setdefault(after.name, after)
        inside = [*outer, {*own, *rewritten}]
        done = {name: self._bodies(op, inside) for name, op in rewritten.items()}
        kept = [done[op.name] for op in ops if op.name in done]
        return (*kept, *(op for name, op in done.items() if name not in own))

    def _bodies(self, op: Op, outer: Sequence[Set[str]]) -> Op:
        old = bodies(op)
        if not old:
            return op
        new = tuple(self._body(body, outer) for body in old)
        op = (
            replace_bodies(op, new)
            if any(a is not b for a, b in zip(old, new, strict=True))
            else op
        )
        return rename_next(op, self.renamed) if isinstance(op, Loop) else op

    def _body(self, body: Body, outer: Sequence[Set[str]]) -> Body:
        ops = self._scope(body.ops, outer)
        result = self.renamed.get(body.result, body.result)
        same = len(ops) == len(body.ops) and all(a is b for a, b in zip(ops, body.ops, strict=True))
        return body if same and result == body.result else Body(ops=ops, result=result)
