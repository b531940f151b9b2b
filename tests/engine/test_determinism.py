"""Deterministic mode: same request, same tokens and logprobs, bit for bit."""

import dataclasses
import random

import pytest

from helium_jax.engine import Engine
from helium_jax.types import GenerateRequest, SamplingParams
from tests.engine.conftest import MODEL


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Bits are promised of what the full compiler makes."""


def make_requests():
    rng = random.Random(11)

    def ids(count):
        return tuple(rng.randrange(1, MODEL.vocab_size) for _ in range(count))

    prefix = ids(48)
    prompts = [prefix + ids(5), prefix + ids(20), ids(60), ids(3), prefix + ids(1), ids(31)]
    return [
        GenerateRequest(
            request_id=f"r{i}",
            token_ids=prompt,
            sampling=SamplingParams(
                max_tokens=30,
                logprobs=3,
                ignore_eos=True,
                temperature=0.9 if i % 2 else 0.0,
                seed=i,
            ),
        )
        for i, prompt in enumerate(prompts)
    ]


def run(engine, requests):
    """Per request: its tokens and logprobs, exactly."""
    for request in requests:
        engine.submit(request)
    outputs = {}
    for request in requests:
        events = list(engine.stream(request.request_id))
        outputs[request.request_id] = [(e.token_ids, e.logprobs) for e in events if e.token_ids]
    return outputs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_do_not_depend_on_neighbours_cache_or_chunking(make_loop, dtype):
    requests = make_requests()
    options = {"deterministic": True, "kv_dtype": dtype}
    with Engine(make_loop(**options)) as engine:
        together = run(engine, requests)
        cached = run(engine, requests)
        hits = engine.statistics().cache.hit_tokens
    assert hits > 100
    assert cached == together
    with Engine(make_loop(prefix_caching=False, **options)) as engine:
        alone = {}
        for request in requests:
            alone |= run(engine, [request])
    assert alone == together
    with Engine(make_loop(max_num_batched_tokens=5, **options)) as engine:
        assert run(engine, list(reversed(requests))) == together
    with Engine(make_loop(num_pages=7, steps_in_flight=2, **options)) as engine:
        assert run(engine, requests) == together
        assert engine.statistics().num_preemptions > 0


def test_seeds_tell_samples_apart(make_loop):
    first = make_requests()[1]
    second = dataclasses.replace(
        first, request_id="s", sampling=dataclasses.replace(first.sampling, seed=12345)
    )
    with Engine(make_loop(deterministic=True)) as engine:
        outputs = run(engine, [first, second])
    assert outputs["r1"] != outputs["s"]
