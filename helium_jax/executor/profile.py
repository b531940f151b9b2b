"""What a finished run has shown of its operators: a profile for later runs of the plan.

Estimates of a run come from earlier runs (`profile_store`), or a sample of its own rows
(`profile_sample`), or else the operators' max_tokens, see `optimizer.Profile`. While a run goes on,
`schedule.output_lengths` corrects them.
"""

from collections import Counter
from dataclasses import dataclass, field

from helium_jax.executor.result import CallSpan, RunStatistics
from helium_jax.optimizer.profile import OperatorProfile, Profile, bucket


@dataclass(slots=True)
class _Seen:
    """The fields of an `OperatorProfile`, still growing."""

    num_calls: int = 0
    num_reused: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    kv_cached: int = 0
    prompt_counts: Counter[int] = field(default_factory=Counter)
    output_counts: Counter[int] = field(default_factory=Counter)

    def add(self, span: CallSpan) -> None:
        self.num_calls += 1
        self.prompt_tokens += span.prompt_tokens
        self.output_tokens += span.completion_tokens
        self.kv_cached += span.kv_cached
        self.prompt_counts[bucket(span.prompt_tokens)] += 1
        self.output_counts[bucket(span.completion_tokens)] += 1

    def freeze(self, num_rows: int) -> OperatorProfile:
        return OperatorProfile(
            num_rows=num_rows,
            num_calls=self.num_calls,
            num_reused=self.num_reused,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            kv_cached=self.kv_cached,
            prompt_counts=dict(self.prompt_counts),
            output_counts=dict(self.output_counts),
        )


def profile_of(statistics: RunStatistics, num_rows: int) -> Profile:
    """The profile of one run, of calls that got an answer; failed ones say nothing.

    Args:
        statistics: of the run.
        num_rows: rows of its batch.
    """
    seen: dict[str, _Seen] = {}
    for span in statistics.spans:
        if span.source in ("computed", "kv"):
            seen.setdefault(span.operator, _Seen()).add(span)
    for operator in statistics.operators:
        num_reused = operator.num_saved_calls + operator.num_cached_calls
        if num_reused:
            seen.setdefault(operator.operator, _Seen()).num_reused += num_reused
    return Profile(operators={name: one.freeze(num_rows) for name, one in seen.items()})
