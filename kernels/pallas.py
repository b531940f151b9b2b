"""The one place that imports Pallas: what jax renames between releases is settled here.

`pl` is the common part, `tpu` Mosaic TPU. `gpu` is Mosaic GPU, or None with the reason in
`gpu_missing`: it needs absl-py, and before jax 0.11.2 lacks what our kernels use.
"""

from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

gpu: Any = None
gpu_missing = ""
if jax.__version_info__ < (0, 11, 2):
    gpu_missing = f"Mosaic GPU kernels need jax 0.11.2 or later; this is {jax.__version__}"
else:
    try:
        from jax.experimental.pallas import mosaic_gpu

        gpu = mosaic_gpu
    except ImportError as error:
        gpu_missing = f"Mosaic GPU cannot be imported: {error}"


__all__ = ["gpu", "gpu_missing", "pl", "tpu"]
