"""Observes a run's calls: a profile for later runs, and corrected estimates for the rest of this.

Estimates of a run come from the best of: earlier runs of the same plan (`profile_store`), a sample
of its own rows (`profile_sample`), the operators' max_tokens; see `optimizer.Profile`.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from helium_jax.executor.result import RunStatistics
from helium_jax.optimizer.profile import OperatorProfile, Profile, bucket

# What was believed before a run counts as so many of its calls, at most. Short answers come back
# first, so the first few must not overturn an estimate.
PRIOR_CALLS = 4


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


class Observations:
    """What one run's calls were like so far; part of a `RunState`."""

    def __init__(self, estimates: Mapping[str, float], num_rows: int) -> None:
        """
        Args:
            estimates: by operator, the output tokens that the run was planned with.
            num_rows: rows of the batch.
        """
        self._estimates = dict(estimates)
        self._num_rows = num_rows
        self._seen: dict[str, _Seen] = {}

    def observe(
        self, operator: str, *, prompt_tokens: int, output_tokens: int, kv_cached: int
    ) -> None:
        """Takes note of a call that finished."""
        seen = self._of(operator)
        seen.num_calls += 1
        seen.prompt_tokens += prompt_tokens
        seen.output_tokens += output_tokens
        seen.kv_cached += kv_cached
        seen.prompt_counts[bucket(prompt_tokens)] += 1
        seen.output_counts[bucket(output_tokens)] += 1

    def observe_reuse(self, operator: str, count: int = 1) -> None:
        """Takes note of calls that an equal one's answer served."""
        self._of(operator).num_reused += count

    def profile(self) -> Profile:
        """What this run alone has shown so far."""
        return Profile(operators={name: self._freeze(seen) for name, seen in self._seen.items()})

    def corrected(self) -> Mapping[str, float]:
        """Output tokens per call to expect from now on, by operator."""
        return {
            name: self._correct(estimate, self._seen.get(name))
            for name, estimate in self._estimates.items()
        }

    def error_ratios(self) -> Mapping[str, float]:
        """By operator with calls: how many times too long or too short its estimate was, from 1."""
        ratios = {}
        for name, seen in self._seen.items():
            if seen.num_calls and name in self._estimates:
                actual = max(seen.output_tokens / seen.num_calls, 1.0)
                estimate = max(self._estimates[name], 1.0)
                ratios[name] = max(actual / estimate, estimate / actual)
        return ratios

    @property
    def estimate_error_ratio(self) -> float:
        """How many times the estimates are off, over all calls so far; 1 is exact.

        The mean of `error_ratios`, an operator counting as much as the tokens that it took or was
        believed to take. Operators with fewer than `PRIOR_CALLS` calls say too little and are left
        out.
        """
        total = weighted = 0.0
        for name, ratio in self.error_ratios().items():
            seen = self._seen[name]
            if seen.num_calls >= PRIOR_CALLS:
                weight = max(seen.output_tokens, seen.num_calls * self._estimates[name], 1.0)
                total += weight
                weighted += weight * ratio
        return weighted / total if total else 1.0

    def _of(self, operator: str) -> _Seen:
        return self._seen.setdefault(operator, _Seen())

    def _correct(self, estimate: float, seen: _Seen | None) -> float:
        if seen is None:
            return estimate
        num_calls = PRIOR_CALLS + seen.num_calls
        return (PRIOR_CALLS * estimate + seen.output_tokens) / num_calls

    def _freeze(self, seen: _Seen) -> OperatorProfile:
        fields = {f.name: getattr(seen, f.name) for f in dataclasses.fields(seen)}
        fields["prompt_counts"] = dict(seen.prompt_counts)
        fields["output_counts"] = dict(seen.output_counts)
        return OperatorProfile(num_rows=self._num_rows, **fields)


def profile_of(statistics: RunStatistics, num_rows: int) -> Profile:
    """What a finished run has shown, of calls that got an answer; failed ones say nothing."""
    observations = Observations({}, num_rows)
    for span in statistics.spans:
        if span.source in ("computed", "kv"):
            observations.observe(
                span.operator,
                prompt_tokens=span.prompt_tokens,
                output_tokens=span.completion_tokens,
                kv_cached=span.kv_cached,
            )
    for operator in statistics.operators:
        num_reused = operator.num_saved_calls + operator.num_cached_calls
        if num_reused:
            observations.observe_reuse(operator.operator, num_reused)
    return observations.profile()
