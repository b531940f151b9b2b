"""For every test: strict JAX ranks, compiled programs kept between runs, no deadlines."""

from collections.abc import Iterator

import hypothesis
import jax
import pytest

# A deadline is an assertion on time, and a busy machine is no fault of the code.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Most of the suite's time is compiling, so programs go to pytest's own cache folder."""
    folder = config.cache.mkdir("programs")  # type: ignore[union-attr]
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def _strict_promotion() -> object:
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def quick_compiler() -> Iterator[None]:
    """Programs compiled in this module are the same to XLA but hardly optimized by LLVM, in two
    thirds of the time: for tests that compile much and compute little.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def full_compiler(quick_compiler: None) -> Iterator[None]:
    """Within such a module, programs as in production: for what is said of bits and memory."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
