"""Limits and order of sequences."""

import dataclasses

import pytest

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.sequence import (
    can_ever_run,
    longest_sequence,
    make_queues,
    new_sequence,
    rank_of,
)
from helium_jax.kvstore.store import make_store
from helium_jax.types import GenerateRequest, SamplingParams, Usage


def make_config(**choices):
    choices = {
        "page_size": 4,
        "num_pages": 4,
        "max_model_len": 100,
        "max_num_seqs": 2,
        "pin_budget": 0.0,
        "prefix_caching": True,
        **choices,
    }
    names = [field.name for field in dataclasses.fields(ResolvedEngineConfig)]
    return ResolvedEngineConfig(**{name: choices.get(name) for name in names})


def make(token_ids, *, config=None, arrival=0, priority=0, max_tokens=None, is_warm=False):
    config = config or make_config()
    return new_sequence(
        GenerateRequest(
            request_id="r",
            token_ids=tuple(token_ids),
            sampling=SamplingParams(max_tokens=max_tokens),
            priority=priority,
        ),
        arrival=arrival,
        store=make_store(config, model_version="", secret=bytes(32)),
        config=config,
        is_warm=is_warm,
    )


@pytest.mark.parametrize(
    ("num_pages", "max_model_len", "longest"), [(4, 100, 17), (4, 16, 16), (4, 17, 17), (4, 18, 17)]
)
def test_context_and_pool_limit_a_sequence(num_pages, max_model_len, longest):
    config = make_config(num_pages=num_pages, max_model_len=max_model_len)
    assert longest_sequence(config) == longest
    assert can_ever_run(longest - 1, config)
    assert not can_ever_run(longest, config)
    assert not can_ever_run(0, config)


@pytest.mark.parametrize(("max_tokens", "limit"), [(None, 17), (3, 8), (12, 17), (50, 17)])
def test_max_tokens_counts_from_the_end_of_the_prompt(max_tokens, limit):
    assert make(range(5), max_tokens=max_tokens).limit == limit


def test_a_warm_sequence_is_its_full_blocks():
    warm = make(range(10), is_warm=True)
    assert warm.token_ids == [*range(8)]
    assert not warm.is_warmed
    assert make(range(3), is_warm=True).is_warmed


def test_usage_of_a_request_never_admitted_is_all_to_compute():
    assert make(range(5)).usage() == Usage(prompt_tokens=5, completion_tokens=0, kv_cached=0)


def test_the_queue_is_by_priority_then_by_arrival():
    queues = make_queues(make_config())
    sequences = [make([1], arrival=i, priority=p) for i, p in enumerate((1, 0, 1, -1, 0))]
    for sequence in reversed(sequences):
        queues.add_waiting(sequence)
    assert [rank_of(sequence) for sequence in queues.waiting] == [
        (-1, 3),
        (0, 1),
        (0, 4),
        (1, 0),
        (1, 2),
    ]
    queues.remove_waiting(sequences[4])
    assert sequences[4] not in queues.waiting
    assert len(queues.waiting) == 4
