"""Runs plans: a state machine that decides and an asyncio shell that acts.

Not here: what a plan may be (`helium_jax.plan`), what a step is (`helium_jax.physical`), tokens and
pages (below the `types.Generator` that is handed in).
"""

from helium_jax.executor.codec import TextCodec
from helium_jax.executor.executor import RunEvent, prepare, run_plan
from helium_jax.executor.options import NAIVE, RunOptions
from helium_jax.executor.prefix import count_static_prefix
from helium_jax.executor.result import (
    OperatorStatistics,
    RowError,
    RowResult,
    RunResult,
    RunStatistics,
)

__all__ = [
    "NAIVE",
    "OperatorStatistics",
    "RowError",
    "RowResult",
    "RunEvent",
    "RunOptions",
    "RunResult",
    "RunStatistics",
    "TextCodec",
    "count_static_prefix",
    "prepare",
    "run_plan",
]
