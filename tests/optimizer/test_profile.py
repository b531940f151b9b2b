"""Profiles as values: estimates, percentiles, sums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.optimizer import OperatorProfile, Profile
from helium_jax.optimizer.profile import DEFAULT_OUTPUT_TOKENS, bucket
from tests.optimizer.plans import settings


def profile_of(lengths, num_rows=None, **fields):
    counts = {}
    for length in lengths:
        counts[bucket(length)] = counts.get(bucket(length), 0) + 1
    return OperatorProfile(
        num_rows=len(lengths) if num_rows is None else num_rows,
        num_calls=len(lengths),
        output_tokens=sum(lengths),
        output_counts=counts,
        **fields,
    )


def test_5_13_without_a_profile_estimates_are_what_is_allowed_and_never_zero():
    profile = Profile()
    assert profile.estimate_output("a", settings(max_tokens=40)) == 40.0
    assert profile.estimate_output("a", settings()) == DEFAULT_OUTPUT_TOKENS
    assert profile.repeats == {}
    assert not profile.has_seen("a")
    only_reused = Profile(operators={"a": OperatorProfile(num_rows=3, num_reused=3)})
    assert only_reused.estimate_output("a", settings(max_tokens=40)) == 40.0
    silent = Profile(operators={"a": profile_of([0, 0])})
    assert silent.estimate_output("a", settings(max_tokens=40)) == 1.0


def test_estimates_are_the_means_of_what_was_seen():
    profile = Profile(operators={"a": profile_of([10, 20, 60], num_rows=2, num_reused=1)})
    assert profile.estimate_outputs({"a": settings(), "b": settings(max_tokens=7)}) == {
        "a": 30.0,
        "b": 7.0,
    }
    assert profile.repeats == {"a": 2.0}
    assert profile.operators["a"].reuse_rate == 0.25


@given(st.integers(0, 10**6))
def test_a_bucket_is_at_most_an_eighth_too_large(num_tokens):
    assert num_tokens <= bucket(num_tokens) <= num_tokens * 9 / 8
    assert bucket(bucket(num_tokens)) == bucket(num_tokens)
    assert len({bucket(n) for n in range(1000, 2000)}) < 16


def test_percentiles_come_from_the_buckets():
    profile = profile_of([*range(1, 101)])
    assert profile.output_percentile(0) == 1
    assert profile.output_percentile(50) == bucket(50)
    assert profile.output_percentile(95) == bucket(95)
    assert profile.output_percentile(100) == bucket(100)
    assert OperatorProfile().prompt_percentile(50) == 0


@given(st.lists(st.integers(0, 999), max_size=9), st.lists(st.integers(0, 999), max_size=9))
def test_profiles_of_two_runs_add_up_to_the_profile_of_both(first, second):
    both = Profile(operators={"a": profile_of(first)}) + Profile(
        operators={"a": profile_of(second), "b": profile_of([3])}
    )
    assert both == Profile(operators={"a": profile_of(first + second), "b": profile_of([3])})


def test_rates_are_shares():
    operator = OperatorProfile(
        num_rows=4, num_calls=2, num_reused=2, prompt_tokens=100, kv_cached=25
    )
    assert (operator.kv_hit_rate, operator.reuse_rate, operator.mean_prompt) == (0.25, 0.5, 50.0)
    assert OperatorProfile().kv_hit_rate == pytest.approx(0)
