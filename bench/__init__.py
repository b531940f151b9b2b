"""Measurements; run them as modules from the root: `python -m bench.bench_engine`.

Not here: tests (nothing under tests/ asserts a time) and profiles of single kernels' inner parts.
"""
