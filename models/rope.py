"""Rotary position embedding: its settings, its frequencies under each scaling, and applying it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Settings of one rotary embedding; hashable, part of a static jit argument.

    Attributes:
        theta: base of the wavelengths.
        scaling: "default", "linear", "yarn" or "llama3".
        factor: by how much the context was stretched; the scaled kinds only.
        original_max_position: context length before stretching; yarn and llama3.
        low_freq_factor: llama3, wavelengths above original / this are stretched in full.
        high_freq_factor: llama3, wavelengths below original / this stay as they are.
        beta_fast: yarn, rotations over the original context above which nothing is stretched.
        beta_slow: yarn, rotations below which everything is stretched.
        truncate: yarn, round the borders of the ramp to whole dimensions.
        attention_factor: yarn, cos and sin are multiplied by it.
    """

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    original_max_position: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


def inverse_frequencies(rope: Rope, head_size: int) -> np.ndarray:
    """Radians per position of each pair of dimensions, [head_size / 2], float32.

    Computed in float64 on the host: a constant of the compiled step.
    """
    exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
    frequencies = rope.theta**-exponents
    return SCALINGS[rope.scaling](frequencies, rope, head_size).astype(np.float32)


def _default(frequencies: np.ndarray, rope: Rope, head_size: int) -> np.ndarray:
    return frequencies


def _linear(frequencies: np.ndarray, rope: Rope, head_size: int) -> np.ndarray:
    """Position interpolation, arXiv 2306.15595."""
    return frequencies / rope.factor


def _llama3(frequencies: np.ndarray, rope: Rope, head_size: int) -> np.ndarray:
    """Llama 3.1: long wavelengths stretched, short ones kept, a linear ramp between."""
    assert rope.original_max_position is not None
    rotations = rope.original_max_position * frequencies / (2 * math.pi)
    keep = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return keep * frequencies + (1.0 - keep) * frequencies / rope.factor


def _yarn(frequencies: np.ndarray, rope: Rope, head_size: int) -> np.ndarray:
    """YaRN, arXiv 2309.00071 section 3.2: the same ramp, laid over the dimension index."""
    original = rope.original_max_position
    assert original is not None

    def dimension_of(rotations: float) -> float:
        wavelength = original / (rotations * 2 * math.pi)
        return head_size * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    span = high - low if high != low else 0.001  # no division by zero
    stretch = np.clip((np.arange(head_size // 2) - low) / span, 0.0, 1.0)
    return stretch * frequencies / rope.factor + (1.0 - stretch) * frequencies


SCALINGS: dict[str, Callable[[np.ndarray, Rope, int], np.ndarray]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def rope_phases(
    rope: Rope, head_size: int, positions: Int[Array, " T"]
) -> tuple[Float[Array, "T h"], Float[Array, "T h"]]:
    """Cosine and sine of every position's angles, float32, h = head_size / 2."""
    frequencies = jnp.asarray(inverse_frequencies(rope, head_size))
    angles = positions.astype(jnp.float32)[:, None] * frequencies[None, :]  # [T, h]
    return jnp.cos(angles) * rope.attention_factor, jnp.sin(angles) * rope.attention_factor


def apply_rope(
    x: Float[Array, "T n H"], phases: tuple[Float[Array, "T h"], Float[Array, "T h"]]
) -> Float[Array, "T n H"]:
    """Rotates dimension i with dimension i + H/2 by the phases, in float32."""
    cos, sin = (phase[:, None, :] for phase in phases)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)  # [T, n, h]
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
