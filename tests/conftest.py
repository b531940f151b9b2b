"""Strict JAX for every test: dtypes and ranks never promote by accident."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_promotion() -> object:
    with jax.numpy_rank_promotion("raise"):
        yield
