"""What a rule is: a pure function that says what it changed and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from helium_jax.optimizer.facts import Facts
from helium_jax.plan import Chat, Completion, Op, Plan, is_deterministic
from helium_jax.plan.control import walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One operator that a rule changed.

    Attributes:
        operator: its name before the rewriting.
        reason: what happened to it and why, to follow its name in a line.
    """

    operator: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """A rule's result.

    Attributes:
        plan: the new plan; the very same one when the rule did not fire.
        notes: what changed, empty when nothing did.
        merged: operators for which another one stands now, and which.
    """

    plan: Plan
    notes: tuple[Note, ...] = ()
    merged: Mapping[str, str] = field(default_factory=dict)


class Rule(Protocol):
    """Rewrites a valid plan into a valid one with the same outputs under the same names.

    Its docstring says Rewrite, Legal when, Pays off when. A rule calls no model, runs no function
    of the plan, and works on the whole plan, the bodies of its operators included.
    """

    __name__: str

    def __call__(self, plan: Plan, facts: Facts) -> Rewriting: ...


def is_repeatable(ops: Iterable[Op], facts: Facts) -> bool:
    """Whether running the operators, bodies included, once more gives the same values.

    Greedy calls count as such on every engine; seeded ones only where the engine is deterministic.
    """
    return all(_repeats(op, facts) for op in walk(ops))


def _repeats(op: Op, facts: Facts) -> bool:
    match op:
        case Chat(settings=settings) | Completion(settings=settings):
            sampling = settings.sampling
            return sampling.is_greedy or (sampling.seed is not None and facts.deterministic)
        case _:
            return is_deterministic(op)
