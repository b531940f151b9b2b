"""Calls whose answers the output cache has for every row are not made."""

import dataclasses

from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import Note, Rewriting, is_repeatable
from helium_jax.plan import Chat, Completion, Const, Loop, Op, Plan, View
from helium_jax.plan.graph import reachable


def fetch_cached_outputs(plan: Plan, facts: Facts) -> Rewriting:
    """Replaces a call by the column of its answers; what only it needed is pruned afterwards.

    A call with some rows cached stays: its run fetches those rows one by one, and `find_known_rows`
    tells the schedule how many are left.

    Rewrite:       {x: call(a)}, x known for rows 0..n-1  ->  {x: [answers]}
    Legal when:    the answers of all rows of the batch are known; the call is greedy, or seeded
                   on a deterministic engine; it may be served by other calls' results; nobody
                   looks at its messages, by a history or a view, which a text does not have.
                   Bodies stay: how often they run is not known.
    Pays off when: always.
    """
    if not facts.num_rows or not facts.known:
        return Rewriting(plan=plan)
    watched = _watched(plan)
    fetched: dict[str, Op] = {}
    for op in plan.ops:
        is_whole = (
            isinstance(op, Chat | Completion) and len(find_known_rows(op, facts)) == facts.num_rows
        )
        if is_whole and op.name not in watched:
            answers = tuple(facts.known[op.name, row] for row in range(facts.num_rows))
            fetched[op.name] = Const(name=op.name, value=answers)
    if not fetched:
        return Rewriting(plan=plan)
    return Rewriting(
        plan=dataclasses.replace(plan, ops=tuple(fetched.get(op.name, op) for op in plan.ops)),
        notes=tuple(
            Note(operator=name, reason=f"CacheFetch: {facts.num_rows} rows are in the output cache")
            for name in fetched
        ),
    )


def find_known_rows(op: Op, facts: Facts) -> frozenset[int]:
    """Rows whose call the output cache serves; none of what is no call or must be made anew."""
    if not isinstance(op, Chat | Completion) or not op.settings.cache.results:
        return frozenset()
    if facts.num_rows is None or not is_repeatable((op,), facts):
        return frozenset()
    return frozenset(row for row in range(facts.num_rows) if (op.name, row) in facts.known)


def _watched(plan: Plan) -> frozenset[str]:
    """Calls of which more than the answer is read, by themselves or as what a loop carries."""
    uses: dict[str, tuple[str, ...]] = {}
    readers: list[str] = []
    for op in plan.all_ops:
        match op:
            case View(source=source) | Chat(history=str() as source):
                readers.append(source)
            case Loop(carried=carried):
                uses |= {one.name: (one.initial, one.next) for one in carried}
            case _:
                pass
    uses |= {name: () for op in plan.ops if (name := op.name) not in uses}
    return reachable(uses, readers)
