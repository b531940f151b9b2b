"""What one run of a plan may spend, and what a plan may be at most."""

import re
from dataclasses import dataclass
from typing import Literal

OnRowError = Literal["skip", "fail"]

MAX_OPS = 10_000  # those in bodies and sub-plans included
MAX_NESTING = 6  # bodies and sub-plans inside each other
MAX_ITERATIONS = 10_000
MAX_ITEMS = 10_000
DEFAULT_MAX_ITEMS = 100
MAX_ARMS = 64
MAX_CARRIED = 64
MAX_SOURCES = 1_000
MAX_RETRIES = 10
MAX_INPUTS = 1_000
MAX_MESSAGES = 1_000
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1_024
MAX_CALLS = 10_000_000  # rows times calls, as many as every bound of the plan allows
MAX_STEPS = 100_000_000  # the same of all operators
MAX_OUTPUT_TOKENS = 10_000_000_000  # the same of max_tokens
MAX_VALUE_CHARS = 4_000_000  # of one value, so that a chain of templates cannot double forever
MAX_TIMEOUT_S = 7 * 24 * 3600.0

_DURATION = re.compile(
    r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,6})?)s)?(?:(\d{1,9})ms)?", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What one run may spend; None is no limit.

    Attributes:
        max_llm_calls: calls that reach the engine; the rows of further ones fail.
        max_total_tokens: prompt and output tokens of those calls. A call starts only if its
            prompt and its max_tokens still fit; the rows of further ones fail.
        timeout_s: seconds from the run's start, after which unfinished rows fail.
        on_row_error: whether a failing row is left out, or ends the run.
        max_concurrency: calls at the engine at one time.
    """

    max_llm_calls: int | None = None
    max_total_tokens: int | None = None
    timeout_s: float | None = None
    on_row_error: OnRowError = "skip"
    max_concurrency: int | None = None


def parse_duration(source: str) -> float | None:
    """Seconds in "90s", "15m", "1h30m" or "500ms"; None if it is no duration."""
    found = _DURATION.fullmatch(source)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(group or 0) for group in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
