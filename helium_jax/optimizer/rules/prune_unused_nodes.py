"""What no output needs is never computed."""

import dataclasses
from collections.abc import Iterator

from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import Note, Rewriting
from helium_jax.plan import Body, Loop, Op, Plan, bodies, replace_bodies
from helium_jax.plan.control import walk
from helium_jax.plan.graph import reachable
from helium_jax.plan.references import own_references


def prune_unused_nodes(plan: Plan, facts: Facts) -> Rewriting:
    """Leaves out operators whose values nobody reads, in the plan and in every body.

    Rewrite:       {x: f(a), y: g(b)}, outputs {x}  ->  {x: f(a)}, outputs {x}
                   loop carrying (s, t), where only s is read  ->  loop carrying (s)
    Legal when:    always: an operator's only effect is its value. A row that would fail for
                   nothing but a value that nobody reads has its outputs then. Of a loop, a
                   carried name also stays when it decides the loop's value without any iteration.
                   Inputs and parameters stay, because who runs the plan gives them.
    Pays off when: always.
    """
    live = _find_live(plan)
    kept = tuple(_prune_bodies(op, live) for op in plan.ops if op.name in live)
    notes = tuple(_explain(plan, kept))
    if not notes:
        return Rewriting(plan=plan)
    return Rewriting(plan=dataclasses.replace(plan, ops=kept), notes=notes)


def _find_live(plan: Plan) -> frozenset[str]:
    """Operators of all scopes and carried names that some output depends on."""
    needs: dict[str, tuple[str, ...]] = {}
    for op in plan.all_ops:
        results = tuple(body.result for body in bodies(op))
        if isinstance(op, Loop):
            needs |= {one.name: (one.initial, one.next) for one in op.carried}
            condition = () if op.condition is None else op.condition.names
            # Without an iteration the value is the initial one of the name that goes on with it.
            starts = tuple(one.name for one in op.carried if one.next == op.body.result)
            needs[op.name] = (*results, *condition, *starts)
        else:
            needs[op.name] = (*own_references(op), *results)
    return reachable(needs, (output.source for output in plan.outputs))


def _prune_bodies(op: Op, live: frozenset[str]) -> Op:
    if isinstance(op, Loop):
        carried = tuple(one for one in op.carried if one.name in live)
        if len(carried) < len(op.carried):
            op = dataclasses.replace(op, carried=carried)
    return replace_bodies(op, tuple(_keep(body, live) for body in bodies(op)))


def _keep(body: Body, live: frozenset[str]) -> Body:
    ops = tuple(_prune_bodies(op, live) for op in body.ops if op.name in live)
    is_same = len(ops) == len(body.ops) and all(a is b for a, b in zip(ops, body.ops, strict=True))
    return body if is_same else dataclasses.replace(body, ops=ops)


def _explain(plan: Plan, kept: tuple[Op, ...]) -> Iterator[Note]:
    """What is left out, in the author's order, then what loops that stay no longer carry."""
    left = {op.name: op for op in walk(kept)}
    for op in plan.all_ops:
        if op.name not in left:
            yield Note(operator=op.name, reason="no output needs it")
    for op in plan.all_ops:
        after = left.get(op.name)
        if isinstance(op, Loop) and isinstance(after, Loop):
            names = {one.name for one in after.carried}
            for one in op.carried:
                if one.name not in names:
                    yield Note(operator=op.name, reason=f"no iteration reads {one.name}")
