"""Runs plans: a state machine that decides and an asyncio shell that acts.

Not here: what a plan may be (`helium_jax.plan`), what a step is (`helium_jax.physical`), tokens and
pages (below the `types.Generator` that is handed in).
"""

from helium_jax.executor.codec import TextCodec
from helium_jax.executor.driver import RunEvent
from helium_jax.executor.executor import run_plan
from helium_jax.executor.options import NAIVE, RunOptions
from helium_jax.executor.preparing import Prepared, prepare, prepare_run
from helium_jax.executor.result import (
    CallSpan,
    OperatorStatistics,
    RowError,
    RowResult,
    RunResult,
    RunStatistics,
)
from helium_jax.executor.run_control import RunControl
from helium_jax.executor.session import Session
from helium_jax.executor.together import Submission

__all__ = [
    "NAIVE",
    "CallSpan",
    "OperatorStatistics",
    "Prepared",
    "RowError",
    "RowResult",
    "RunControl",
    "RunEvent",
    "RunOptions",
    "RunResult",
    "RunStatistics",
    "Session",
    "Submission",
    "TextCodec",
    "prepare",
    "prepare_run",
    "run_plan",
]
