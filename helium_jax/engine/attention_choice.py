"""Which implementation of attention an engine takes: what was asked for, what fits, what works."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import jax

from helium_jax.config import ResolvedEngineConfig
from helium_jax.kernels.attention import Target, choose_target
from helium_jax.kernels.attention.self_check import KERNELS, CheckedShape, find_fault
from helium_jax.models.config import ModelConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionChoice:
    """How a step reads and writes the pages.

    Attributes:
        target: what steps are packed for.
        reason: one sentence for people.
        fault: what a kernel did wrong in its self-check; None if it did nothing wrong. The target
            is then XLA's path, unless this very kernel was asked for.
    """

    target: Target
    reason: str
    fault: str | None = None


def choose_attention(
    device: Any, model: ModelConfig, config: ResolvedEngineConfig
) -> AttentionChoice:
    """Chooses for a device, and runs a chosen kernel's self-check on it (seconds)."""
    target, reason = choose_target(
        device,
        dtype=config.dtype,
        kv_dtype=config.kv_dtype,
        head_size=model.head_size,
        page_size=config.page_size,
        num_heads=model.num_q_heads,
        num_kv_heads=model.num_kv_heads,
        implementation=config.attention,
    )
    if target.implementation not in KERNELS:
        return AttentionChoice(target=target, reason=reason)
    shape = CheckedShape(
        dtype=config.dtype,
        kv_dtype=config.kv_dtype,
        head_size=model.head_size,
        page_size=config.page_size,
        windows=tuple(dict.fromkeys(model.windows)),
        soft_cap=model.attention_soft_cap,
        deterministic=config.deterministic,
    )
    name = target.implementation
    log.info("checking the kernel %s; should it never end, start with --attention xla", name)
    with jax.default_device(device):
        fault = find_fault(target, shape)
    if fault is None:
        reason += "; in a self-check on this device it agreed with XLA's path"
        return AttentionChoice(target=target, reason=reason)
    if config.attention is None:
        target = replace(target, implementation="xla")
    return AttentionChoice(
        target=target, reason=f"not {name}: its self-check failed: {fault}", fault=fault
    )
