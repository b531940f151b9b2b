"""What no output needs is never computed."""

import dataclasses
from collections.abc import Iterator

from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import Note, Rewriting
from helium_jax.plan import Body, Loop, Op, Plan, bodies, references, replace_bodies
from helium_jax.plan.control import walk
from helium_jax.plan.graph import reachable


def prune_unused_nodes(plan: Plan, facts: Facts) -> Rewriting:
    """Leaves out operators whose values nobody reads, in the plan and in every body.

    Rewrite:       {x: f(a), y: g(b)}, outputs {x}  ->  {x: f(a)}, outputs {x}
                   loop carrying (s, t), where only s is read  ->  loop carrying (s)
    Legal when:    always: an operator's only effect is its value. Of a loop, a carried name also
                   stays when it decides the loop's value without any iteration. Inputs and
                   parameters stay, because who runs the plan gives them.
    Pays off when: always.
    """
    kept = [_prune_bodies(op) for op in plan.ops if op.name in plan.needed]
    left = {op.name for op in walk(kept)}
    pruned = [op.name for op in plan.all_ops if op.name not in left]
    carried = list(_lost_names(plan, kept))
    if not pruned and not carried:
        return Rewriting(plan=plan)
    return Rewriting(
        plan=dataclasses.replace(plan, ops=tuple(kept)),
        notes=(
            *(Note(operator=name, reason="no output needs it") for name in pruned),
            *(Note(operator=name, reason=f"no iteration reads {lost}") for name, lost in carried),
        ),
    )


def _prune_bodies(op: Op) -> Op:
    inside = bodies(op)
    if not inside:
        return op
    if isinstance(op, Loop):
        live = _live_in_loop(op)
        # Without an iteration the value is the initial one of the name that goes on with it.
        carried = tuple(c for c in op.carried if c.name in live or c.next == op.body.result)
        if len(carried) < len(op.carried):
            op = dataclasses.replace(op, carried=carried)
        return replace_bodies(op, (_keep(op.body, live),))
    return replace_bodies(op, tuple(_keep(body, _live(body)) for body in inside))


def _live(body: Body) -> frozenset[str]:
    return reachable({op.name: references(op) for op in body.ops}, (body.result,))


def _live_in_loop(loop: Loop) -> frozenset[str]:
    """Names of the body and carried names that the value or the condition depends on."""
    graph = {op.name: references(op) for op in loop.body.ops}
    graph |= {one.name: (one.next,) for one in loop.carried}
    condition = () if loop.condition is None else loop.condition.names
    return reachable(graph, (loop.body.result, *condition))


def _keep(body: Body, live: frozenset[str]) -> Body:
    ops = tuple(_prune_bodies(op) for op in body.ops if op.name in live)
    is_same = len(ops) == len(body.ops) and all(a is b for a, b in zip(ops, body.ops, strict=True))
    return body if is_same else dataclasses.replace(body, ops=ops)


def _lost_names(plan: Plan, kept: list[Op]) -> Iterator[tuple[str, str]]:
    """(loop, carried name) of what loops that stay no longer carry."""
    before = {op.name: op for op in plan.all_ops if isinstance(op, Loop)}
    for op in walk(kept):
        if isinstance(op, Loop):
            names = {one.name for one in op.carried}
            for one in before[op.name].carried:
                if one.name not in names:
                    yield op.name, one.name
