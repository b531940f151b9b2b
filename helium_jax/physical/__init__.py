"""What a step of a run is: physical operators, physical plans, and lowering to them.

Not here: the order of steps (`helium_jax.schedule`) and running them (`helium_jax.executor`).
"""

from helium_jax.physical.lowering import count_rows, lower
from helium_jax.physical.operators import (
    Apply,
    Branch,
    Carry,
    Control,
    Generate,
    Hold,
    Invoke,
    Loop,
    Map,
    PhysicalOperator,
    Race,
    Read,
    Region,
    Slice,
    Turn,
    View,
    regions,
    render_value,
)
from helium_jax.physical.plan import PhysicalPlan, calls_within

__all__ = [
    "Apply",
    "Branch",
    "Carry",
    "Control",
    "Generate",
    "Hold",
    "Invoke",
    "Loop",
    "Map",
    "PhysicalOperator",
    "PhysicalPlan",
    "Race",
    "Read",
    "Region",
    "Slice",
    "Turn",
    "View",
    "calls_within",
    "count_rows",
    "lower",
    "regions",
    "render_value",
]
