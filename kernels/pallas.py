"""The one place that imports Pallas: what jax renames between releases is settled here.

`pl` is the common part, `tpu` Mosaic TPU. `gpu` is Mosaic GPU, or None with the reason in
`gpu_missing`: it needs absl-py, and before jax 0.11 lacks what our kernels use.
"""

from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

gpu: Any = None
gpu_missing = ""
if jax.__version_info__ < (0, 11):
    gpu_missing = f"Mosaic GPU kernels need jax 0.11 or later; this is {jax.__version__}"
else:
    try:
        from jax.experimental.pallas import mosaic_gpu

        gpu = mosaic_gpu
    except ImportError as error:
        gpu_missing = f"Mosaic GPU cannot be imported: {error}"


def load_shared(ref: Any, layout: Any) -> Any:
    """All of a GPU's shared-memory reference, in a layout of registers."""
    if jax.__version_info__ < (0, 12):
        return gpu.load(ref, (), layout=layout)
    return gpu.load(ref, layout=layout)


__all__ = ["gpu", "gpu_missing", "load_shared", "pl", "tpu"]
