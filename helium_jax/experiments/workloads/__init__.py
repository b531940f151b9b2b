"""The paper's workloads, made offline from a seed: shapes and lengths of theirs, words of ours.

Every family has a file; all have the signature `(fill, *, num_rows, ...) -> Workload`. Lengths are
tokens of the tokenizer that runs them. How a total is divided within a prompt (role, document,
instruction) is not published; what is chosen here adds up to what is.

Not here: running them (`helium_jax.experiments.measure`) and the built-in model's own workloads
with right answers (`helium_jax.builtin.workloads`).
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Workload
from helium_jax.experiments.workloads.debate import debate_mmlu, debate_tatqa
from helium_jax.experiments.workloads.iterative import iterative
from helium_jax.experiments.workloads.map_reduce import map_reduce_mmlu, map_reduce_tatqa
from helium_jax.experiments.workloads.parallel_chains import parallel_chains
from helium_jax.experiments.workloads.prompt_shapes import SHAPES, prompt_shape
from helium_jax.experiments.workloads.reflection import reflection
from helium_jax.experiments.workloads.trading import trading


class MakeWorkload(Protocol):
    """Makes a workload of `num_rows` rows."""

    def __call__(self, fill: Filler, *, num_rows: int) -> Workload: ...


WORKLOADS: Mapping[str, MakeWorkload] = MappingProxyType(
    {
        "map-reduce-mmlu": map_reduce_mmlu,
        "map-reduce-tatqa": map_reduce_tatqa,
        "debate-mmlu": debate_mmlu,
        "debate-tatqa": debate_tatqa,
        "reflection": reflection,
        "iterative": iterative,
        "parallel-chains": parallel_chains,
        "trading": trading,
        "trading-day-two": partial(trading, second_day=True),
    }
)
PROMPT_SHAPES: Mapping[str, MakeWorkload] = MappingProxyType(
    {name: partial(prompt_shape, shape=name) for name in SHAPES}
)

__all__ = [
    "PROMPT_SHAPES",
    "WORKLOADS",
    "MakeWorkload",
    "debate_mmlu",
    "debate_tatqa",
    "iterative",
    "map_reduce_mmlu",
    "map_reduce_tatqa",
    "parallel_chains",
    "prompt_shape",
    "reflection",
    "trading",
]
