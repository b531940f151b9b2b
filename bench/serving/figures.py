"""From what every request went through to the figures that `vllm bench serve` reports.

TTFT: from sending to the first token. ITL: between two events of a stream. TPOT: the rest of the
answer over its tokens but the first. E2EL: from sending to the end. Goodput: requests a second that
kept every promise.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEASURES = ("ttft", "tpot", "itl", "e2el")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request.

    Attributes:
        prompt_tokens: as the server counts them.
        cached_tokens: of those, found in its KV cache.
        completion_tokens: likewise.
        ttft_s: to the first event with text; None if there was none.
        e2el_s: to the end.
        itl_s: between the events.
        error: why it failed, "" if it did not.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    e2el_s: float = 0.0
    itl_s: tuple[float, ...] = ()
    error: str = ""

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None for answers of one token."""
        if self.ttft_s is None or self.completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.completion_tokens - 1)


def figures_of(
    outcomes: Sequence[Outcome], seconds: float, promises_ms: Mapping[str, float]
) -> dict[str, float]:
    """The report of one run.

    Args:
        outcomes: of all requests.
        seconds: from the first request's sending to the last one's end.
        promises_ms: most milliseconds by measure ("ttft", "tpot", "e2el"); for the goodput.
    """
    good = [one for one in outcomes if not one.error]
    output = sum(one.completion_tokens for one in good)
    prompt = sum(one.prompt_tokens for one in good)
    figures = {
        "completed": float(len(good)),
        "failed": float(len(outcomes) - len(good)),
        "duration_s": seconds,
        "total_input_tokens": float(prompt),
        "total_output_tokens": float(output),
        "cached_input_share": sum(one.cached_tokens for one in good) / prompt if prompt else 0.0,
        "request_throughput_per_s": len(good) / seconds,
        "output_throughput_tokens_per_s": output / seconds,
        "total_throughput_tokens_per_s": (output + prompt) / seconds,
    }
    for measure in MEASURES:
        values = sorted(1e3 * value for one in good for value in _values(one, measure))
        if values:
            figures[f"mean_{measure}_ms"] = statistics.fmean(values)
            figures[f"median_{measure}_ms"] = statistics.median(values)
            figures[f"p99_{measure}_ms"] = percentile(values, 0.99)
    if promises_ms:
        kept = sum(_keeps(one, promises_ms) for one in good)
        figures["request_goodput_per_s"] = kept / seconds
    return figures


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ascending values, the smallest that at least `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _values(outcome: Outcome, measure: str) -> tuple[float, ...]:
    if measure == "itl":
        return outcome.itl_s
    value = {"ttft": outcome.ttft_s, "tpot": outcome.tpot_s, "e2el": outcome.e2el_s}[measure]
    return () if value is None else (value,)


def _keeps(outcome: Outcome, promises_ms: Mapping[str, float]) -> bool:
    return all(
        1e3 * value <= most
        for measure, most in promises_ms.items()
        for value in _values(outcome, measure)
    )
