"""Runs sequences: decides steps, runs them on the device, streams tokens back.

Not here: text and plans (above), which pages hold what (`kvstore`), arithmetic (`models`,
`kernels`), and the choice of model and device (`runtime`).
"""

from helium_jax.engine.async_engine import AsyncEngine
from helium_jax.engine.loop import Loop
from helium_jax.engine.pool import EnginePool
from helium_jax.engine.runner import Progress, Runner
from helium_jax.engine.sync_engine import Engine

__all__ = ["AsyncEngine", "Engine", "EnginePool", "Loop", "Progress", "Runner"]
