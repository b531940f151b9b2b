"""The line about memory: its parts add up to what it says."""

import pytest

from helium_jax.cli.memory_lines import describe_bytes, describe_memory
from helium_jax.engine.memory import MemoryUse


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_sizes_are_told_in_the_largest_unit_that_fits(size, text):
    assert describe_bytes(size) == text


def test_the_parts_are_a_sum():
    use = MemoryUse(weights=100 * 2**20, kv=28 * 2**20)
    assert use + MemoryUse(scratch=2**20) == MemoryUse(
        weights=100 * 2**20, kv=28 * 2**20, scratch=2**20
    )
    assert describe_memory(use, 2**34) == (
        "weights 100.0 MiB + KV 28.0 MiB + scratch 0 B = 128.0 MiB, 16.0 GiB free"
    )
