"""Applies the rules until none fires, and distrusts every one of them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from helium_jax.errors import InternalError, PlanError, RequestError
from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import Note, Rule
from helium_jax.optimizer.rules import RULES, group_rows_by_value
from helium_jax.optimizer.rules.fetch_cached_outputs import find_known_rows
from helium_jax.optimizer.rules.group_rows_by_value import Grouping
from helium_jax.plan import Chat, Completion, Const, Plan, validate

MAX_ROUNDS = 32
NO_FACTS = Facts()
ANNOTATION = group_rows_by_value.__name__
RULE_NAMES = (*(rule.__name__ for rule in RULES), ANNOTATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One rule that fired.

    Attributes:
        rule: its name.
        notes: which operators it changed and why.
        num_ops: operators before and after, those in bodies included.
        num_calls: of those, operators that call a language model, before and after.
    """

    rule: str
    notes: tuple[Note, ...]
    num_ops: tuple[int, int]
    num_calls: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """What the rules made of a plan.

    Attributes:
        plan: gives the outputs of the original under the same names.
        trace: the rules that fired, in order.
        fetched: calls that are columns of cached answers now.
        spared: calls that the given plan makes and this one does not, because the output cache has
            their answers for every row: those fetched, and those that only these needed.
        known_rows: by call that is left outside bodies, the rows that the output cache serves.
        merged: by operator for which another one stands now, that one. A run without any reuse
            makes the calls of both.
        grouping: which rows share values.
    """

    plan: Plan
    trace: tuple[TraceStep, ...]
    fetched: tuple[str, ...]
    spared: tuple[str, ...]
    known_rows: Mapping[str, frozenset[int]]
    merged: Mapping[str, str]
    grouping: Grouping

    def count_calls(self, operator: str, num_rows: int) -> int:
        """Calls outside bodies that a batch needs: rows that are cached, and all but the first of
        rows that are alike, make none."""
        known = self.known_rows.get(operator, frozenset())
        alike = self.grouping.values.get(operator, range(num_rows))
        return len({alike[row] for row in range(num_rows) if row not in known})


def optimize(
    plan: Plan,
    facts: Facts = NO_FACTS,
    *,
    disable: Iterable[str] = (),
    rules: Sequence[Rule] = RULES,
) -> Optimized:
    """An equal plan that costs less; runs nothing.

    Args:
        plan: a valid plan.
        facts: what is known beyond it.
        disable: names of rules to leave out, of `RULE_NAMES`.
        rules: what is tried, in this order, round after round.

    Raises:
        RequestError: `disable` has a name that is no rule's.
        PlanError: the plan is not valid.
        InternalError: a rule made an invalid plan or other outputs, or they never come to an end.
    """
    disabled = check_rule_names(disable)
    validate(plan)
    active = [rule for rule in rules if rule.__name__ not in disabled]
    rewritten, trace, merged = _to_fixed_point(plan, facts, active)
    calls = {op.name: op for op in plan.ops if isinstance(op, Chat | Completion)}
    left = {op.name: op for op in rewritten.all_ops}
    known_rows = {op.name: rows for op in rewritten.ops if (rows := find_known_rows(op, facts))}
    spared = [
        name
        for name, op in calls.items()
        if name in plan.needed
        and facts.num_rows
        and len(find_known_rows(op, facts)) == facts.num_rows
        and not isinstance(left.get(merged.get(name, name)), Chat | Completion)
    ]
    return Optimized(
        plan=rewritten,
        trace=trace,
        fetched=tuple(name for name in calls if isinstance(left.get(name), Const)),
        spared=tuple(spared),
        known_rows=known_rows,
        merged=merged,
        grouping=Grouping() if ANNOTATION in disabled else group_rows_by_value(rewritten, facts),
    )


def check_rule_names(names: Iterable[str]) -> frozenset[str]:
    """The names as a set.

    Raises:
        RequestError: one is no rule's.
    """
    found = frozenset(names)
    for name in sorted(found - set(RULE_NAMES)):
        near = difflib.get_close_matches(name[:64], RULE_NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"rules are {', '.join(RULE_NAMES)}"
        raise RequestError(f"{name[:64]!r} is no rule that could be disabled; {hint}")
    return found


def _to_fixed_point(
    plan: Plan, facts: Facts, rules: Sequence[Rule]
) -> tuple[Plan, tuple[TraceStep, ...], Mapping[str, str]]:
    trace: list[TraceStep] = []
    merged: dict[str, str] = {}
    for _ in range(MAX_ROUNDS):
        before = plan
        for rule in rules:
            rewriting = rule(plan, facts)
            if rewriting.plan is not plan:
                _check(rule, plan, rewriting.plan)
                trace.append(_step(rule, rewriting.notes, plan, rewriting.plan))
                plan = rewriting.plan
                # What stood for others may have been merged itself.
                merged = {name: rewriting.merged.get(by, by) for name, by in merged.items()}
                merged |= rewriting.merged
        if plan is before:
            return plan, tuple(trace), merged
    last = ", ".join(dict.fromkeys(step.rule for step in trace[-len(rules) :]))
    raise InternalError(f"the rules {last} still rewrite the plan after {MAX_ROUNDS} rounds")


def _check(rule: Rule, before: Plan, after: Plan) -> None:
    name = rule.__name__
    try:
        validate(after)
    except PlanError as error:
        raise InternalError(f"the rule {name} made an invalid plan: {error.message}") from error
    if [o.name for o in before.outputs] != [o.name for o in after.outputs]:
        raise InternalError(f"the rule {name} changed which outputs there are")
    if (before.inputs, before.params, before.limits) != (after.inputs, after.params, after.limits):
        raise InternalError(f"the rule {name} changed what a run is given")


def _step(rule: Rule, notes: tuple[Note, ...], before: Plan, after: Plan) -> TraceStep:
    return TraceStep(
        rule=rule.__name__,
        notes=notes,
        num_ops=(len(before.all_ops), len(after.all_ops)),
        num_calls=(_count_calls(before), _count_calls(after)),
    )


def _count_calls(plan: Plan) -> int:
    return sum(isinstance(op, Chat | Completion) for op in plan.all_ops)
