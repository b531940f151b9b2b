"""Whether a prefix is worth computing ahead and keeping: its uses against the pages it holds."""

from typing import NamedTuple

from helium_jax.schedule.roofline import Roofline

MIN_GAIN = 1.5  # how often a kept page must save its own computation to be worth its place
MAX_POOL_SHARE = 0.25  # of the KV store, for one prefix


class WarmDecision(NamedTuple):
    """A verdict and its reason; `value` orders pins (`WarmPrefix.value`): seconds per page."""

    is_worth: bool
    reason: str
    value: float


def worth_warming(
    uses: float, prefix_tokens: int, roofline: Roofline, *, page_size: int, num_pages: int
) -> WarmDecision:
    """Weighs what a resident prefix saves against what its pages could hold instead.

    Every use but the first finds the prefix computed, if it is still there; pinned, it is. A page
    that holds anything else saves its tokens about once. So the seconds saved per page must exceed
    MIN_GAIN times the seconds that the tokens of a page cost.

    Args:
        uses: calls that begin with the prefix on one worker, in this run and those to come.
        prefix_tokens: its length; only full pages are kept.
        roofline: cost of prefills.
        page_size: tokens per page.
        num_pages: of the worker's pool.
    """
    pages = prefix_tokens // page_size
    if pages == 0:
        return WarmDecision(False, f"its {prefix_tokens} tokens fill no page of {page_size}", 0.0)
    if pages > MAX_POOL_SHARE * num_pages:
        reason = f"its {pages} pages are over {MAX_POOL_SHARE:.0%} of {num_pages}"
        return WarmDecision(False, reason, 0.0)
    prefill_s = roofline.prefill_seconds(pages * page_size)
    value = max(uses - 1.0, 0.0) * prefill_s / pages
    threshold = MIN_GAIN * roofline.prefill_seconds(page_size)
    weighed = f"{uses:g} uses x {prefill_s * 1e3:.3g} ms over {pages} pages saves "
    found = f"{value * 1e3:.3g} ms a page, threshold {threshold * 1e3:.3g} ms"
    return WarmDecision(value > threshold, weighed + found, value)
