"""What the process says about itself: log format and metrics.

What does not live here: who decides to log (each module has its own logger), installing handlers
(only `helium_jax.cli` does), and serving `/metrics` (`helium_jax.server`).
"""
