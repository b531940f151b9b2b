"""What a control operator does next: pure decisions, given the values it may read.

`start` is asked when an operator may begin, `proceed` whenever one of its frames ended or failed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helium_jax.executor.result import RowError
from helium_jax.executor.values import TOO_LARGE, Look, Value, join, text_of
from helium_jax.physical import Branch, Control, Loop, Map, Race, Region
from helium_jax.plan.control import BEST_OF_NAME, Reduce
from helium_jax.plan.formula import (
    Formula,
    evaluate_condition,
    evaluate_items,
    evaluate_number,
)
from helium_jax.plan.formula_functions import FormulaError

AGAIN, LAST = 0, 1  # the scopes of a loop; those of a branch are then and otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A frame to begin.

    Attributes:
        position: iteration, item or arm.
        scope: which of the operator's scopes.
        given: values of the names that the operator binds.
        is_repeated: whether it is one of several activations of the same scope.
    """

    position: int
    scope: int
    given: Mapping[str, Value] = field(default_factory=dict)
    is_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Begin these frames; none means: wait for those that run."""

    openings: tuple[Opening, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The operator has its value; frames that still run are not needed."""

    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The operator has no value."""

    code: str
    message: str


Step = Begin | Done | Refused
WAIT = Begin()


@dataclass(slots=True, kw_only=True)
class Progress:
    """What the frames of one running operator have given so far.

    Attributes:
        num_children: frames that were begun.
        values: by position, what was wanted of the frames that ended.
        errors: by position, why frames failed.
        current: of a loop, the values of the carried names in the running iteration.
    """

    num_children: int = 0
    values: dict[int, Mapping[str, Value]] = field(default_factory=dict)
    errors: dict[int, RowError] = field(default_factory=dict)
    current: Mapping[str, Value] = field(default_factory=dict)


def start(operator: Control, progress: Progress, look: Look) -> Step:
    """What an operator begins with."""
    try:
        match operator:
            case Branch(condition=condition, otherwise=otherwise):
                is_true = evaluate_condition(condition, _texts(condition, look))
                if not is_true and otherwise is None:
                    return Done(value="")
                return Begin(openings=(Opening(position=0, scope=0 if is_true else 1),))
            case Loop(carried=carried):
                progress.current = {one.name: look(one.initial) for one in carried}
                return _iterate(operator, 0, progress.current, look)
            case Map(over=over, item=name, max_items=most):
                items = evaluate_items(over, _texts(over, look), most)
                openings = tuple(
                    Opening(position=i, scope=0, given={name: item}, is_repeated=True)
                    for i, item in enumerate(items)
                )
                return Begin(openings=openings) if openings else Done(value="")
            case Race(arms=arms):
                return Begin(openings=tuple(Opening(position=i, scope=i) for i in range(len(arms))))
    except FormulaError as error:
        return Refused(code="bad_value", message=str(error))


def proceed(operator: Control, progress: Progress, look: Look) -> Step:
    """What follows now that a frame has ended, well or not: its error is the caller's to pass on.

    Returns `WAIT` also when a failed frame decides the outcome; see `has_failed`.
    """
    try:
        match operator:
            case Branch(then=then, otherwise=otherwise):
                (values,) = progress.values.values()
                (name,) = values
                assert name in (then.result, None if otherwise is None else otherwise.result)
                return Done(value=values[name])
            case Loop(carried=carried):
                position, values = progress.values.popitem()
                if position + 1 == operator.count:
                    return Done(value=values[operator.final])
                progress.current = {one.name: values[one.next] for one in carried}
                return _iterate(operator, position + 1, progress.current, look, values)
            case Map(body=body, reduce=reduce):
                if len(progress.values) < progress.num_children:
                    return WAIT
                return _reduce(
                    reduce, _results(progress, [body.result] * len(progress.values)), look
                )
            case Race(arms=arms, k=k, reduce=reduce):
                num_left = len(arms) - len(progress.values) - len(progress.errors)
                if len(progress.values) < k and num_left > 0:
                    return WAIT
                return _reduce(reduce, _results(progress, [arm.result for arm in arms]), look)
    except FormulaError as error:
        return Refused(code="bad_value", message=str(error))


def yet_to_begin(operator: Control, position: int) -> tuple[Region, ...]:
    """The regions of which frames may still begin after the one at `position`."""
    if not isinstance(operator, Loop):
        return ()  # the others begin all at once
    if operator.count is None:
        return (operator.again,)
    num_left = operator.count - position - 1
    if num_left == 0:
        return ()
    return (operator.last,) if num_left == 1 else (operator.again, operator.last)


def has_failed(operator: Control, progress: Progress) -> bool:
    """Whether the frames that failed leave the operator without a value."""
    if isinstance(operator, Race):
        return len(progress.errors) == len(operator.arms)
    return bool(progress.errors)


def _iterate(
    loop: Loop,
    position: int,
    current: Mapping[str, Value],
    look: Look,
    before: Mapping[str, Value] | None = None,
) -> Step:
    """Begins an iteration, or ends the loop before it, given what the one `before` it gave."""
    if loop.count is not None:
        goes_on = position < loop.count
    else:
        assert loop.condition is not None, "a loop has a count or a condition"
        inside = lambda name: current[name] if name in current else look(name)  # noqa: E731
        goes_on = evaluate_condition(loop.condition, _texts(loop.condition, inside))
        if goes_on and position == loop.max_iterations:
            message = (
                f"its condition still holds after max_iterations={loop.max_iterations}; raise it, "
                "or make the condition end sooner"
            )
            return Refused(code="max_iterations", message=message)
    if goes_on:
        is_last = loop.count is not None and position + 1 == loop.count
        scope = LAST if is_last else AGAIN
        opening = Opening(position=position, scope=scope, given=current, is_repeated=True)
        return Begin(openings=(opening,))
    if before is not None:
        return Done(value=before[loop.final])
    # No iteration at all: what the result would have begun with.
    for one in loop.carried:
        if loop.body.result in (one.name, one.next):
            return Done(value=current[one.name])
    return Done(value="")


def _texts(formula: Formula, look: Look) -> dict[str, str]:
    return {name: text_of(look(name)) for name in formula.names}


def _results(progress: Progress, names: Sequence[str]) -> list[str]:
    """The texts that the frames gave, by position."""
    return [
        text_of(progress.values[position][names[position]]) for position in sorted(progress.values)
    ]


def _reduce(reduce: Reduce, texts: list[str], look: Look) -> Step:
    if not texts:
        return Done(value="")
    match reduce.kind:
        case "concat":
            text = join(texts, reduce.separator)
            if text is None:
                return Refused(code="value_too_large", message=TOO_LARGE)
            return Done(value=text)
        case "vote":
            # Counters keep the order of first occurrence, and most_common is stable.
            ((winner, _),) = Counter(text.strip() for text in texts).most_common(1)
            return Done(value=winner)
        case "best_of":
            assert reduce.score is not None, "a best_of has a score"
            names = [name for name in reduce.score.names if name != BEST_OF_NAME]
            around = {name: text_of(look(name)) for name in names}
            scores = [
                evaluate_number(reduce.score, {**around, BEST_OF_NAME: text}) for text in texts
            ]
            return Done(value=texts[scores.index(max(scores))])
