"""Plan to physical plan: parameters and constants become literals, nodes become steps."""

from collections.abc import Mapping

from helium_jax.errors import PlanError, Problem
from helium_jax.physical.operators import (
    Apply,
    Generate,
    Hold,
    PhysicalOperator,
    Read,
    Turn,
    render_value,
)
from helium_jax.physical.plan import PhysicalPlan
from helium_jax.plan import (
    Chat,
    Completion,
    Const,
    Input,
    Node,
    Param,
    Plan,
    Slot,
    Template,
    Text,
    Value,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.spec import param_fault, texts, validate
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
    for op in plan.ops:
        if isinstance(op, Const) and not isinstance(op.value, tuple):
            literals[op.name] = render_value(op.value)
    wanted = {output.source for output in plan.outputs}
    _check_literals(plan, literals)
    operators = [
        _lower_node(plan.nodes[name], literals)
        for name in plan.topological_order
        # A literal is a step of its own only where it is itself a result.
        if name in plan.needed and (name not in literals or name in wanted)
    ]
    return PhysicalPlan(
        plan_id=plan.plan_id,
        operators=tuple(operators),
        outputs=tuple((output.name, output.source) for output in plan.outputs),
        limits=plan.limits,
    )


def bind_params(plan: Plan, params: Mapping[str, Value]) -> dict[str, Value]:
    """Every parameter's value for a run.

    Raises:
        PlanError: one is missing, unknown or out of its range.
    """
    found = Findings()
    declared = {param.name: param for param in plan.params}
    for name in params:
        if name not in declared:
            hint = found.suggest(name, declared, kinds="parameters")
            path = f"params.{name[:64]}"
            found.add(path, f"is no parameter of this plan; {hint}", "unknown_reference")
    bound: dict[str, Value] = {}
    for name, param in declared.items():
        value = params.get(name, param.default)
        fault = param_fault(param, value) if value is not None else "is missing and has no default"
        if fault is not None:
            found.add(f"params.{name}", fault)
        elif value is not None:
            bound[name] = value
    found.raise_if_any()
    return bound


def _check_literals(plan: Plan, literals: Mapping[str, str]) -> None:
    """Refuses a plan that would grow past reason when its constants are written out."""
    length = sum(
        len(literals[part.name])
        for op in plan.ops
        if op.name in plan.needed
        for _, text in texts(op)
        for part in text
        if isinstance(part, Slot) and part.name in literals
    )
    if length > MAX_LITERAL_CHARS:
        message = (
            f"its constants and parameters take {length} characters where they are used; "
            f"at most {MAX_LITERAL_CHARS} are allowed"
        )
        raise PlanError([Problem(path="plan.ops", message=message, code="plan_too_large")])


def _lower_node(node: Node, literals: Mapping[str, str]) -> PhysicalOperator:
    match node:
        case Input(name=name):
            return Read(name=name, column=name)
        case Param(name=name):
            return Hold(name=name, values=(literals[name],), is_column=False)
        case Const(name=name, value=tuple() as values):
            column = tuple(render_value(value) for value in values)
            return Hold(name=name, values=column, is_column=True)
        case Const(name=name):
            return Hold(name=name, values=(literals[name],), is_column=False)
        case Template(name=name, text=text):
            return Apply(name=name, text=_insert(text, literals))
        case Completion(name=name, prompt=prompt, settings=settings):
            turn = Turn(role=None, content=_insert(prompt, literals))
            return Generate(name=name, turns=(turn,), settings=settings)
        case Chat(name=name, messages=messages, settings=settings):
            turns = tuple(Turn(role=m.role, content=_insert(m.content, literals)) for m in messages)
            return Generate(name=name, turns=turns, settings=settings)


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
    columns = [
        op
        for op in plan.ops
        if isinstance(op, Const) and isinstance(op.value, tuple) and op.name in plan.needed
    ]
    lengths = {op.name: len(op.value) for op in columns if isinstance(op.value, tuple)}
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
