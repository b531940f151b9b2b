"""What the steps of an engine compute: what cost models of steps are told."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What the steps of some time computed; sums over those steps.

    Attributes:
        num_steps: how many.
        prefill_tokens: prompt tokens computed.
        decode_tokens: tokens generated, one per sequence and step.
        kv_tokens: context read by the decodes.
        pair_tokens: context read by the prefills: per chunk, its tokens x its mean context.
    """

    num_steps: int
    prefill_tokens: float
    decode_tokens: float
    kv_tokens: float
    pair_tokens: float


StepCost = Callable[[StepWork], float]  # seconds


def add_work(a: StepWork, b: StepWork) -> StepWork:
    """Both together."""
    return StepWork(
        num_steps=a.num_steps + b.num_steps,
        prefill_tokens=a.prefill_tokens + b.prefill_tokens,
        decode_tokens=a.decode_tokens + b.decode_tokens,
        kv_tokens=a.kv_tokens + b.kv_tokens,
        pair_tokens=a.pair_tokens + b.pair_tokens,
    )
