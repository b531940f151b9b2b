"""The values of a plan's parameters for one run."""

from collections.abc import Mapping

from helium_jax.plan import Plan, Value
from helium_jax.plan.findings import Findings
from helium_jax.plan.spec import param_fault


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
