"""Plan to physical plan: parameters and constants become literals, nodes become steps."""

from collections.abc import Iterator, Mapping, Sequence

from helium_jax.errors import PlanError, Problem
from helium_jax.physical import operators as physical
from helium_jax.physical.operators import Hold, PhysicalOperator, Read, Region, Turn, render_value
from helium_jax.physical.params import bind_params
from helium_jax.physical.plan import PhysicalPlan
from helium_jax.physical.references import direct_needs, value_needs
from helium_jax.plan import (
    Chat,
    Completion,
    Const,
    Input,
    Op,
    Plan,
    Slot,
    Template,
    Text,
    Value,
)
from helium_jax.plan.control import Body, Branch, Loop, Map, Race, walk
from helium_jax.plan.graph import reachable
from helium_jax.plan.nodes import Concat, Lambda, Slice, View
from helium_jax.plan.references import body_order, references
from helium_jax.plan.spec import validate
from helium_jax.plan.template import normalize

MAX_LITERAL_CHARS = 64_000_000
NO_PARAMS: Mapping[str, Value] = {}


def lower(plan: Plan, params: Mapping[str, Value] = NO_PARAMS) -> PhysicalPlan:
    """What a run of `plan` does for each row.

    Args:
        plan: the plan.
        params: values of its parameters; the others have their defaults.

    Raises:
        PlanError: the plan is not valid, or a parameter is missing, unknown or out of its range.
    """
    validate(plan)
    bound = bind_params(plan, params)
    literals: dict[str, str] = {name: render_value(value) for name, value in bound.items()}
    columns: dict[str, tuple[str, ...]] = {}
    for op in walk(plan.ops):
        match op:
            case Const(name=name, value=tuple() as values):
                columns[name] = tuple(render_value(value) for value in values)
            case Const(name=name, value=str() | int() | float() as value):
                literals[name] = render_value(value)
            case _:
                pass
    needed = tuple(_needed_ops(plan))
    _check_literals(needed, literals)
    steps = tuple(
        _lower_op(op, literals, bound) for op in needed if not isinstance(op, Input | Const)
    )
    wanted = {output.source for output in plan.outputs} | _value_names(steps)
    held = [
        Hold(name=name, values=(value,), is_column=False)
        for name, value in literals.items()
        # A literal is a step of its own only where it is a value, not a part of a text.
        if name in wanted
    ]
    read_names = wanted | _slot_names(steps)
    held += [
        Hold(name=name, values=values, is_column=True)
        for name, values in columns.items()
        if name in read_names
    ]
    reads = [Read(name=op.name, column=op.name) for op in needed if isinstance(op, Input)]
    return PhysicalPlan(
        plan_id=plan.plan_id,
        operators=(*reads, *held, *steps),
        outputs=tuple((output.name, output.source) for output in plan.outputs),
        limits=plan.limits,
    )


def _needed_ops(plan: Plan) -> Iterator[Op | Input]:
    """Columns and operators that some output needs, in an order in which they can run."""
    for name in plan.topological_order:
        node = plan.nodes[name]
        if name in plan.needed and isinstance(node, Input | Op):
            yield node


def _value_names(steps: Sequence[PhysicalOperator]) -> set[str]:
    names: set[str] = set()
    for op in _all(steps):
        names.update(value_needs(op))
    return names


def _slot_names(steps: Sequence[PhysicalOperator]) -> set[str]:
    return {name for op in _all(steps) for name in direct_needs(op)}


def _all(steps: Sequence[PhysicalOperator]) -> Iterator[PhysicalOperator]:
    for op in steps:
        yield op
        for region in physical.regions(op):
            yield from _all(region.operators)


def _check_literals(needed: Sequence[Op | Input], literals: Mapping[str, str]) -> None:
    """Refuses a plan that would grow past reason when its constants are written out."""
    ops = walk(op for op in needed if not isinstance(op, Input))
    length = sum(
        len(literals[part.name])
        for op in ops
        for part in _op_text(op)
        if isinstance(part, Slot) and part.name in literals
    )
    if length > MAX_LITERAL_CHARS:
        message = (
            f"its constants and parameters take {length} characters where they are used; "
            f"at most {MAX_LITERAL_CHARS} are allowed"
        )
        raise PlanError([Problem(path="plan.ops", message=message, code="plan_too_large")])


def _op_text(op: Op) -> Text:
    match op:
        case Template(text=text) | Completion(prompt=text):
            return text
        case Chat(messages=messages):
            return tuple(part for message in messages for part in message.content)
        case Concat(sources=sources):
            return tuple(Slot(name=name) for name in sources)
        case _:
            return ()


def _lower_op(op: Op, literals: Mapping[str, str], params: Mapping[str, Value]) -> PhysicalOperator:
    def region(body: Body, *wanted: str) -> Region:
        return _lower_body(body, (body.result, *wanted), literals, params)

    match op:
        case Template(name=name, text=text):
            return physical.Apply(name=name, text=_insert(text, literals))
        case Concat(name=name, sources=sources, separator=separator):
            parts = [part for source in sources for part in (separator, Slot(name=source))][1:]
            return physical.Apply(name=name, text=_insert(tuple(parts), literals))
        case View(name=name, source=source, kind="text"):
            return physical.Apply(name=name, text=(Slot(name=source),))
        case View(name=name, source=source, kind=kind):
            return physical.View(name=name, source=source, kind=kind)
        case Slice(name=name, source=source, start=start, stop=stop, unit=unit):
            return physical.Slice(name=name, source=source, start=start, stop=stop, unit=unit)
        case Lambda(name=name, function=function, args=args):
            return physical.Invoke(name=name, function=function, args=args)
        case Completion(name=name, prompt=prompt, settings=settings):
            turn = Turn(role=None, content=_insert(prompt, literals))
            return physical.Generate(name=name, turns=(turn,), settings=settings)
        case Chat(name=name, messages=messages, settings=settings, history=history):
            turns = tuple(Turn(role=m.role, content=_insert(m.content, literals)) for m in messages)
            return physical.Generate(name=name, turns=turns, settings=settings, history=history)
        case Branch(name=name, condition=condition, then=then, otherwise=otherwise):
            return physical.Branch(
                name=name,
                condition=condition,
                then=region(then),
                otherwise=None if otherwise is None else region(otherwise),
            )
        case Loop(carried=carried, body=body):
            nexts = {one.name: one.next for one in carried}
            final = nexts.get(body.result, body.result)
            count = _count(op, params)
            wanted = (*nexts.values(), *(() if count is not None else (final,)))
            return physical.Loop(
                name=op.name,
                carried=tuple(
                    physical.Carry(name=one.name, initial=one.initial, next=one.next)
                    for one in carried
                ),
                body=region(body, *nexts.values()),
                again=_lower_body(body, wanted, literals, params),
                last=_lower_body(body, (final,), literals, params),
                count=count,
                condition=op.condition,
                max_iterations=op.max_iterations,
            )
        case Map(name=name, over=over, item=item, body=body, max_items=most, reduce=reduce):
            return physical.Map(
                name=name, over=over, item=item, body=region(body), max_items=most, reduce=reduce
            )
        case Race(name=name, arms=arms, k=k, reduce=reduce):
            lowered = tuple(region(arm) for arm in arms)
            return physical.Race(name=name, arms=lowered, k=k, reduce=reduce)
        case Const():
            raise AssertionError("constants are literals or held values")


def _lower_body(
    body: Body, wanted: Sequence[str], literals: Mapping[str, str], params: Mapping[str, Value]
) -> Region:
    """The body's operators that `wanted` needs, in an order in which they can run."""
    needs = {op.name: references(op) for op in body.ops}
    needed = reachable(needs, (name for name in wanted if name in needs))
    ordered = [op for op in body_order(body.ops) if op.name in needed]
    return Region(
        operators=tuple(_lower_op(op, literals, params) for op in ordered if not _is_const(op)),
        result=body.result,
    )


def _is_const(op: Op) -> bool:
    return isinstance(op, Const)


def _count(loop: Loop, params: Mapping[str, Value]) -> int | None:
    """The number of iterations of a counted loop.

    Raises:
        PlanError: it is over the loop's own bound.
    """
    count = params[loop.count] if isinstance(loop.count, str) else loop.count
    if count is None:
        return None
    assert isinstance(count, int), "the plan was checked: a count is an int parameter"
    if count > loop.max_iterations:
        message = f"{count} is more than max_iterations={loop.max_iterations}; raise one"
        raise PlanError([Problem(path=f"plan.ops.{loop.name}.count", message=message)])
    return max(count, 0)


def _insert(text: Text, literals: Mapping[str, str]) -> Text:
    """The text with known values in their slots; they are never looked at for slots again."""
    return normalize(
        literals.get(part.name, part) if isinstance(part, Slot) else part for part in text
    )


def count_rows(plan: Plan, num_given: int) -> int:
    """Rows of a run: as many as given, or, without inputs, as the constant columns have, or one.

    Raises:
        PlanError: a constant column has another length than the batch.
    """
    needed = walk(op for op in plan.ops if op.name in plan.needed)
    lengths = {
        op.name: len(op.value)
        for op in needed
        if isinstance(op, Const) and isinstance(op.value, tuple)
    }
    if not plan.inputs and num_given == 0:
        return next(iter(lengths.values()), 1)
    problems = [
        Problem(
            path=f"plan.ops.{name}.values",
            message=f"has {length} values but the batch has {num_given} rows",
        )
        for name, length in lengths.items()
        if length != num_given
    ]
    if problems:
        raise PlanError(problems)
    return num_given
