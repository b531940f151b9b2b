"""Rewrites plans into equal ones that cost less, and what is known for it.

Not here: the order of calls (`helium_jax.schedule`), running anything (`helium_jax.executor`); a
rule never calls a model and never runs a function of the plan.
"""

from helium_jax.optimizer.profile import OperatorProfile, Profile

__all__ = ["OperatorProfile", "Profile"]
