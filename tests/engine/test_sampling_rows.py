"""Packing rows on the host and unpacking them on the device."""

import math

import jax
import numpy as np
import pytest

from helium_jax.engine.sampling_rows import (
    NO_ID,
    STOP_CAPACITY,
    Variant,
    num_ints,
    pack_row,
    pack_sampling,
    unpack_sampling,
    variant_of,
)
from helium_jax.engine.sampling_state import (
    BIAS_CAPACITY,
    allocate_sampling_state,
    make_slot_arrays,
    needs_slot,
    set_slot,
)
from helium_jax.errors import RequestError
from helium_jax.types import SamplingParams


def test_unpacking_gives_back_what_was_packed():
    params = SamplingParams(
        temperature=0.7,
        top_k=40,
        top_p=0.9,
        min_p=0.05,
        presence_penalty=-1.0,
        frequency_penalty=0.25,
        repetition_penalty=1.125,
        min_tokens=4,
        stop_token_ids=(11, 12, 11),
        logit_bias=((1, 2.0), (3, -4.0)),
        logprobs=7,
    )
    seed = (0xFEDC_BA98 << 32) | 0x8765_4321
    row = pack_row(params, seed=seed, prompt_len=10, slot=3, eos_token_ids=[2, 12])
    out = np.full(num_ints(3), -7, np.int32)
    assert pack_sampling([row], [15], num_slots=8, out=out) is Variant.FULL
    rows = jax.device_get(jax.jit(unpack_sampling, static_argnums=1)(out, 3))
    assert rows.position.tolist() == [15, 0, 0]
    assert rows.num_generated.tolist() == [5, 0, 0]
    assert rows.slot.tolist() == [3, 8, 8]
    assert rows.seed[0].tolist() == [0xFEDC_BA98, 0x8765_4321]
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"):
        assert getattr(rows, name)[0] == np.float32(getattr(params, name))
        assert getattr(rows, name)[1] == 0.0
    assert rows.frequency_penalty[0] == 0.25
    assert (rows.top_k[0], rows.min_tokens[0], rows.num_bias[0]) == (40, 4, 2)
    assert (rows.wants_logprob[0], rows.num_top[0]) == (True, 7)
    assert rows.stop_ids[0].tolist() == [11, 12, 2] + [NO_ID] * (STOP_CAPACITY - 3)


@pytest.mark.parametrize(
    ("params", "variant"),
    [
        (SamplingParams(), Variant.GREEDY),
        (SamplingParams(top_k=5, top_p=0.5, seed=3), Variant.GREEDY),
        (SamplingParams(temperature=0.1), Variant.RANDOM),
        (SamplingParams(temperature=0.1, top_k=5), Variant.FULL),
        (SamplingParams(temperature=0.1, top_p=0.5), Variant.FULL),
        (SamplingParams(temperature=0.1, min_p=0.5), Variant.FULL),
        (SamplingParams(presence_penalty=0.1), Variant.FULL),
        (SamplingParams(repetition_penalty=1.1), Variant.FULL),
        (SamplingParams(logit_bias=((1, 1.0),)), Variant.FULL),
        (SamplingParams(min_tokens=1), Variant.FULL),
        (SamplingParams(logprobs=0), Variant.FULL),
    ],
)
def test_a_row_asks_for_the_least_variant_that_serves_it(params, variant):
    assert variant_of(params) is variant


def test_a_step_needs_the_greatest_variant_of_its_rows():
    greedy, random = SamplingParams(), SamplingParams(temperature=1.0)
    out = np.empty(num_ints(4), np.int32)

    def needed(*params):
        rows = [pack_row(p, seed=0, prompt_len=1, slot=0) for p in params]
        return pack_sampling(rows, [1] * len(rows), num_slots=4, out=out)

    assert needed() is Variant.GREEDY
    assert needed(greedy, greedy) is Variant.GREEDY
    assert needed(greedy, random, greedy) is Variant.RANDOM
    assert needed(random, SamplingParams(logprobs=1)) is Variant.FULL


def test_too_many_held_back_ids_are_refused_only_when_they_are_held_back():
    ids = tuple(range(STOP_CAPACITY + 1))
    pack_row(SamplingParams(stop_token_ids=ids), seed=0, prompt_len=1, slot=0)
    with pytest.raises(RequestError, match=f"hold back {STOP_CAPACITY + 1} stop .* at most"):
        pack_row(SamplingParams(stop_token_ids=ids, min_tokens=1), seed=0, prompt_len=1, slot=0)


def test_set_slot_fills_one_slot_and_leaves_the_others():
    params = SamplingParams(logit_bias=tuple((i, i / 8) for i in range(BIAS_CAPACITY)))
    state = allocate_sampling_state(2, 6)
    state = jax.device_get(set_slot(state, 1, *make_slot_arrays(params, [4, 5], 6)))
    assert state.tokens.tolist() == [[0] * 6, [4, 5, 0, 0, 0, 0], [0] * 6]
    assert state.bias_ids[1].tolist() == list(range(BIAS_CAPACITY))
    assert math.isclose(state.bias_values[1].sum(), sum(range(BIAS_CAPACITY)) / 8)
    assert (state.bias_ids[[0, 2]] == NO_ID).all()


def test_only_penalties_and_biases_need_their_slot_filled():
    assert not needs_slot(SamplingParams(temperature=1.0, min_tokens=3, logprobs=1))
    assert needs_slot(SamplingParams(frequency_penalty=0.5))
    assert needs_slot(SamplingParams(logit_bias=((1, 1.0),)))
