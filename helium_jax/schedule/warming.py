"""Whether a prefix is worth computing ahead: what its uses save against what it takes."""

from typing import NamedTuple

from helium_jax.schedule.roofline import Roofline

MIN_GAIN = 1.5  # how often a kept page must save its own computation to be worth its place

# Of an engine that was not measured, in tokens: a step of its own costs as much as these.
UNMEASURED = Roofline(step_s=64.0, token_s=1.0)


class WarmDecision(NamedTuple):
    """A verdict and its reason."""

    is_worth: bool
    reason: str


def worth_warming(
    uses: float, prefix_tokens: int, roofline: Roofline | None, *, page_size: int
) -> WarmDecision:
    """Weighs what a resident prefix saves against its step and what its pages could hold instead.

    Every use but the first finds the prefix computed, if it is still there; pinned, it is. A page
    that holds anything else saves its tokens about once, and the prefix takes a place in a
    step.

    Args:
        uses: calls that begin with the prefix.
        prefix_tokens: its length; only full pages are kept.
        roofline: cost of prefills; None: the engine was not measured, and tokens are compared.
        page_size: tokens per page.
    """
    pages = prefix_tokens // page_size
    if pages == 0:
        return WarmDecision(False, f"its {prefix_tokens} tokens fill no page of {page_size}")
    roof = roofline or UNMEASURED
    saved = max(uses - 1.0, 0.0) * roof.prefill_seconds(pages * page_size)
    threshold = MIN_GAIN * pages * roof.prefill_seconds(page_size) + roof.step_seconds(0, 0, 0)
    reason = f"{uses:g} uses save {_amount(saved, roofline)}, threshold "
    return WarmDecision(saved > threshold, reason + _amount(threshold, roofline))


def _amount(value: float, roofline: Roofline | None) -> str:
    return f"{value:.0f} tokens" if roofline is None else f"{value * 1e3:.3g} ms"
