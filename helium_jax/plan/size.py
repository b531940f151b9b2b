"""How much work a row may become at most, when every bound of the plan is used up."""

from collections.abc import Mapping
from dataclasses import dataclass

from helium_jax.plan.control import Body, Branch, Loop, Map, Op, Race, bodies
from helium_jax.plan.limits import MAX_CALLS, MAX_OUTPUT_TOKENS, MAX_STEPS
from helium_jax.plan.nodes import Chat, Completion, Value
from helium_jax.plan.plan import Plan

NO_PARAMS: Mapping[str, Value] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Upper bounds of one row.

    Attributes:
        calls: of language models, retries not counted.
        steps: executions of operators of any kind.
        output_tokens: of the calls that have max_tokens.
    """

    calls: int = 0
    steps: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(
            calls=self.calls + other.calls,
            steps=self.steps + other.steps,
            output_tokens=self.output_tokens + other.output_tokens,
        )

    def times(self, factor: int) -> "Size":
        """The same work so many times."""
        return Size(
            calls=self.calls * factor,
            steps=self.steps * factor,
            output_tokens=self.output_tokens * factor,
        )


def row_size(plan: Plan, params: Mapping[str, Value] = NO_PARAMS) -> Size:
    """What one row of `plan` may become at most.

    Args:
        plan: the plan, nested no deeper than is allowed.
        params: of a run; a loop whose parameter is not among them counts its `max_iterations`.
    """
    return _scope_size(plan.ops, plan.needed, params)


def max_executions(plan: Plan, params: Mapping[str, Value] = NO_PARAMS) -> dict[str, int]:
    """How often each operator, also of bodies, runs for one row at most."""
    executions: dict[str, int] = {}
    pending = [(plan.ops, 1)]
    while pending:
        ops, times = pending.pop()
        for op in ops:
            executions[op.name] = times
            inside = times
            if isinstance(op, Loop):
                inside = times * iterations(op, params)
            elif isinstance(op, Map):
                inside = times * op.max_items
            pending += [(body.ops, inside) for body in bodies(op)]
    return executions


def size_fault(size: Size, num_rows: int) -> str | None:
    """Why so many rows of this size are too much for one run, or None if they are not."""
    rows = f"{num_rows} rows times " if num_rows > 1 else ""
    for count, most, what in (
        (size.calls, MAX_CALLS, "calls"),
        (size.steps, MAX_STEPS, "steps"),
        (size.output_tokens, MAX_OUTPUT_TOKENS, "output tokens"),
    ):
        if count * num_rows > most:
            return f"{rows}{count} {what} are possible and at most {most} allowed"
    return None


def _scope_size(ops: tuple[Op, ...], needed: frozenset[str], params: Mapping[str, Value]) -> Size:
    total = Size()
    for op in ops:
        if op.name in needed:
            total += _op_size(op, needed, params)
    return total


def _op_size(op: Op, needed: frozenset[str], params: Mapping[str, Value]) -> Size:
    def body(given: Body) -> Size:
        return _scope_size(given.ops, needed, params)

    one = Size(steps=1)
    match op:
        case Chat(settings=settings) | Completion(settings=settings):
            return Size(calls=1, steps=1, output_tokens=settings.sampling.max_tokens or 0)
        case Branch(then=then, otherwise=otherwise):
            first, second = body(then), body(otherwise) if otherwise is not None else Size()
            return one + Size(
                calls=max(first.calls, second.calls),
                steps=max(first.steps, second.steps),
                output_tokens=max(first.output_tokens, second.output_tokens),
            )
        case Loop():
            return one + body(op.body).times(iterations(op, params))
        case Map(body=inner, max_items=most):
            return one + body(inner).times(most)
        case Race(arms=arms):
            for arm in arms:
                one += body(arm)
            return one
        case _:
            return one


def iterations(loop: Loop, params: Mapping[str, Value] = NO_PARAMS) -> int:
    """The most iterations of a loop in a run with these parameters."""
    if isinstance(loop.count, int):
        return loop.count
    value = params.get(loop.count) if loop.count is not None else None
    return value if isinstance(value, int) and value >= 0 else loop.max_iterations
