"""Several plans as one, so that rules and schedules see all of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helium_jax.plan.control import Op, bound_names, walk
from helium_jax.plan.nodes import Const, Function, Input, Lambda, Output, Value
from helium_jax.plan.plan import Plan
from helium_jax.plan.references import map_bodies, rename_all
from helium_jax.plan.subplans import fix_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A plan to be combined with others.

    Attributes:
        plan: valid; limits of its own do not count any more.
        columns: for every input the number of its column; what has equal numbers and types is one
            input afterwards.
        params: the value of every parameter, which becomes a constant.
    """

    plan: Plan
    columns: Mapping[str, int]
    params: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """A plan that computes what several do.

    Attributes:
        plan: without limits and parameters.
        names: per part, what its inputs, operators and bound names are called now.
        outputs: per part, what its outputs are called now.
    """

    plan: Plan
    names: tuple[Mapping[str, str], ...]
    outputs: tuple[Mapping[str, str], ...]


def combine(parts: Sequence[Part]) -> Combined:
    """One plan with the operators of all parts, each under a name of its own.

    Equal operators stay two: `optimizer.rules.merge_equal_subplans` makes them one, because equal
    columns are one input, and equal parameters equal constants. Names that become too long, and
    too many operators, are faults that `spec.check_plan` finds.
    """
    inputs: dict[str, Input] = {}
    ops: list[Op] = []
    outputs: list[Output] = []
    all_names, all_outputs = [], []
    functions: dict[str, Function] = {}
    for number, part in enumerate(parts):
        plan, prefix = part.plan, f"p{number}-"
        names = {
            name: f"{prefix}{name}"
            for op in plan.ops
            for one in walk((op,))
            for name in (one.name, *bound_names(one))
        }
        names |= {param.name: f"{prefix}{param.name}" for param in plan.params}
        for node in plan.inputs:
            names[node.name] = f"{node.type}-{part.columns[node.name]}"
            inputs[names[node.name]] = Input(name=names[node.name], type=node.type)
        ops += [Const(name=names[name], value=value) for name, value in part.params.items()]
        for op in plan.ops:
            renamed = rename_all(fix_counts(op, part.params), names)
            ops.append(_with_own_functions(renamed, prefix, functions))
        own = {output.name: f"{prefix}{output.name}" for output in plan.outputs}
        outputs += [Output(name=own[o.name], source=names[o.source]) for o in plan.outputs]
        all_names.append(names)
        all_outputs.append(own)
    return Combined(
        plan=Plan(
            name=" + ".join(part.plan.name or part.plan.plan_id for part in parts),
            inputs=tuple(inputs.values()),
            ops=tuple(ops),
            outputs=tuple(outputs),
        ),
        names=tuple(all_names),
        outputs=tuple(all_outputs),
    )


def _with_own_functions(op: Op, prefix: str, known: dict[str, Function]) -> Op:
    """In one plan a name is one function: another plan's of the same name gets another one."""
    op = map_bodies(op, lambda inner: _with_own_functions(inner, prefix, known))
    if not isinstance(op, Lambda):
        return op
    function = op.function
    if known.setdefault(function.name, function) != function:
        function = dataclasses.replace(function, name=f"{prefix}{function.name}")
        known[function.name] = function
    return dataclasses.replace(op, function=function)
