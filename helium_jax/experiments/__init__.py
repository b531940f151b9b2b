"""The paper's experiments: workloads, measured runs of every policy, and tables beside its own.

Not here: the command line (`helium_jax.cli.bench`), benchmarks of the engine alone and against
other engines (`bench/`), and anything that a run needs (`helium_jax.executor`).
"""
