"""What a step of a run is: physical operators, physical plans, and lowering to them.

Not here: the order of steps (`helium_jax.executor` releases them as soon as they are ready).
"""

from helium_jax.physical.lowering import count_rows, lower
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

__all__ = [
    "Apply",
    "Generate",
    "Hold",
    "PhysicalOperator",
    "PhysicalPlan",
    "Read",
    "Turn",
    "count_rows",
    "lower",
    "render_value",
]
