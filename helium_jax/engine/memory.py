"""What an engine's memory is taken by."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
from jax.stages import Compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory of an engine, in bytes.

    Attributes:
        weights: of the model; none for an engine that shares another one's.
        kv: of the pages.
        scratch: of buffers that stay, and of the largest program while it runs.
    """

    weights: int = 0
    kv: int = 0
    scratch: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.scratch

    def __add__(self, other: "MemoryUse") -> "MemoryUse":
        return MemoryUse(
            weights=self.weights + other.weights,
            kv=self.kv + other.kv,
            scratch=self.scratch + other.scratch,
        )


def num_bytes(tree: object) -> int:
    """Bytes of a tree's arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def temporary_bytes(programs: Iterable[Compiled]) -> int:
    """What the hungriest of the programs takes while it runs, as far as XLA tells."""
    found = (program.memory_analysis() for program in programs)
    return max((one.temp_size_in_bytes for one in found if one is not None), default=0)
