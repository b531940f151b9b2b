"""Every sampling feature against numpy, and each row's independence of the batch around it."""

from functools import partial

import jax
import numpy as np
import pytest
import scipy.stats

from helium_jax.engine.sampling import MAX_TOP, draw_uniform, sample
from helium_jax.engine.sampling_rows import (
    Variant,
    num_ints,
    pack_row,
    pack_sampling,
    unpack_sampling,
)
from helium_jax.engine.sampling_state import allocate_sampling_state, make_slot_arrays, set_slot
from helium_jax.types import SamplingParams

NUM_SLOTS, MAX_LEN, VOCAB = 4, 32, 200


@partial(jax.jit, static_argnames=("num_rows", "variant"))
def run(logits, ints, state, num_rows, variant):
    return sample(logits, unpack_sampling(ints, num_rows), state, variant=variant)


@partial(jax.jit, static_argnames="num_rows")
def uniforms(ints, num_rows):
    return draw_uniform(unpack_sampling(ints, num_rows))


def pack(params, *, seeds=None, positions=None, prompt_len=3, slots=None, eos=(), pad_to=0):
    count = len(params)
    rows = [
        pack_row(
            p,
            seed=seeds[i] if seeds else i,
            prompt_len=prompt_len,
            slot=slots[i] if slots else 0,
            eos_token_ids=eos,
        )
        for i, p in enumerate(params)
    ]
    num_rows = max(count, pad_to)
    out = np.empty(num_ints(num_rows), np.int32)
    variant = pack_sampling(rows, positions or [prompt_len] * count, num_slots=NUM_SLOTS, out=out)
    return out, num_rows, variant


def draw(logits, params, *, state=None, variant=None, **options):
    """Sampled as numpy arrays, the variant chosen by the rows unless given."""
    ints, num_rows, needed = pack(params, **options)
    if state is None:
        state = allocate_sampling_state(NUM_SLOTS, MAX_LEN)
    logits = np.concatenate(
        [logits, np.zeros((num_rows - len(logits), logits.shape[1]), np.float32)]
    )
    variant = needed if variant is None else variant
    return jax.device_get(run(logits, ints, state, num_rows, variant))


def random_logits(num_rows, vocab_size=VOCAB, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((num_rows, vocab_size)) * 3).astype(np.float32)


def greedy(logits, params, *, history=(), prompt_len=3, **options):
    """Ids chosen greedily for one row with the known tokens `history` in slot 1."""
    state = allocate_sampling_state(NUM_SLOTS, MAX_LEN)
    state = set_slot(state, 1, *make_slot_arrays(params, history, MAX_LEN))
    options = {"positions": [len(history) or prompt_len], "slots": [1], **options}
    sampled = draw(logits[None], [params], state=state, prompt_len=prompt_len, **options)
    assert sampled.ok.all()
    return int(sampled.token_ids[0])


def ranking(logits, params, count, **options):
    """The `count` best ids under changed logits, by choosing and forbidding one after another."""
    logits = logits.copy()
    ids = []
    for _ in range(count):
        ids.append(greedy(logits, params, **options))
        logits[ids[-1]] = -np.inf
    return ids


@pytest.mark.parametrize("vocab_size", [2, 31, 200, 9000])
@pytest.mark.parametrize("variant", list(Variant))
def test_greedy_takes_the_lowest_id_of_the_greatest_logit(vocab_size, variant):
    logits = np.random.default_rng(1).integers(0, 5, (7, vocab_size)).astype(np.float32)
    sampled = draw(logits, [SamplingParams()] * 7, variant=variant)
    np.testing.assert_array_equal(sampled.token_ids, logits.argmax(axis=1))
    assert sampled.ok.all()


@pytest.mark.parametrize("variant", [Variant.RANDOM, Variant.FULL])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_random_row_draws_where_its_distribution_function_passes_its_uniform(
    temperature, variant
):
    logits = random_logits(64, 9000)
    params = [SamplingParams(temperature=temperature)] * 64
    sampled = draw(logits, params, variant=variant)
    u = np.asarray(uniforms(*pack(params)[:2]), np.float64)
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
    ends = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    chosen = sampled.token_ids[:, None]
    end = np.take_along_axis(ends, chosen, axis=1)[:, 0]
    start = end - np.take_along_axis(weights / weights.sum(axis=1, keepdims=True), chosen, 1)[:, 0]
    assert np.all(u > start - 1e-5)
    assert np.all(u < end + 1e-5)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=10),
        SamplingParams(temperature=1.5, top_p=0.8),
        SamplingParams(temperature=1.0, min_p=0.1, logit_bias=((3, 1.5), (9, -2.0))),
    ],
)
def test_draws_follow_the_distribution(params):
    """Chi-square over 20,000 draws of fixed seeds, and nothing outside the kept tokens."""
    vocab_size, num_rows, rounds = 24, 1000, 20
    logits = random_logits(1, vocab_size, seed=5) / 2
    changed = logits[0].astype(np.float64).copy()
    for token_id, bias in params.logit_bias:
        changed[token_id] += bias
    p = np.exp((changed - changed.max()) / params.temperature)
    if params.top_k:
        p[np.argsort(-p)[params.top_k :]] = 0
    if params.top_p < 1.0:
        order = np.argsort(-p)
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= params.top_p * p.sum()]] = 0
    p[p < params.min_p * p.max()] = 0
    state = allocate_sampling_state(NUM_SLOTS, MAX_LEN)
    state = set_slot(state, 0, *make_slot_arrays(params, [], MAX_LEN))
    counts = np.zeros(vocab_size)
    for position in range(rounds):
        sampled = draw(
            np.repeat(logits, num_rows, axis=0),
            [params] * num_rows,
            state=state,
            seeds=[row * 2**40 + 17 for row in range(num_rows)],
            positions=[position + 3] * num_rows,
        )
        counts += np.bincount(sampled.token_ids, minlength=vocab_size)
    assert counts[p == 0].sum() == 0
    expected = p[p > 0] / p.sum() * counts.sum()
    assert scipy.stats.chisquare(counts[p > 0], expected).pvalue > 1e-3


def test_uniforms_are_uniform_and_differ_by_seed_and_position():
    params = [SamplingParams(temperature=1.0)] * 2000
    seeds = [*range(1000), *[2**62 + 5] * 500, *[i * 2**32 for i in range(1, 501)]]
    positions = [7] * 1000 + [*range(500)] + [7] * 500
    u = np.asarray(uniforms(*pack(params, seeds=seeds, positions=positions)[:2]))
    assert len(np.unique(u)) >= 1999  # 24 bits: a collision is possible, many are not
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3


def test_a_higher_variant_gives_the_same_tokens():
    params = [SamplingParams(temperature=t) for t in (0.0, 0.5, 1.0, 2.0)] * 16
    logits = random_logits(64, 8448)
    low = draw(logits, params, variant=Variant.RANDOM)
    high = draw(logits, params, variant=Variant.FULL)
    np.testing.assert_array_equal(low.token_ids, high.token_ids)


def test_logit_bias_adds_and_other_slots_biases_do_not_count():
    logits = np.zeros(VOCAB, np.float32)
    logits[:3] = [1.0, 2.0, 3.0]
    params = SamplingParams(logit_bias=((0, 5.0), (2, -100.0), (4, 1.5)))
    assert ranking(logits, params, 3) == [0, 1, 4]
    state = allocate_sampling_state(NUM_SLOTS, MAX_LEN)
    state = set_slot(state, 1, *make_slot_arrays(params, [], MAX_LEN))
    plain = SamplingParams(logprobs=1)  # in a slot with biases of its former owner
    sampled = draw(np.stack([logits, logits]), [params, plain], state=state, slots=[1, 1])
    assert sampled.token_ids.tolist() == [0, 2]


def test_penalties_follow_their_formulas():
    rng = np.random.default_rng(8)
    for case in range(20):
        logits = random_logits(1, VOCAB, seed=case)[0]
        prompt, output = rng.integers(0, 30, 6).tolist(), rng.integers(0, 30, 9).tolist()
        params = SamplingParams(
            repetition_penalty=float(rng.choice([0.5, 1.0, 1.3, 2.0])),
            frequency_penalty=float(rng.choice([-1.5, 0.0, 0.7])),
            presence_penalty=float(rng.choice([-2.0, 0.0, 1.1])),
        )
        changed = logits.copy()
        for token in {*prompt, *output}:
            factor = np.float32(params.repetition_penalty)
            changed[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        for token in {*output}:
            changed[token] -= np.float32(params.frequency_penalty) * output.count(token)
            changed[token] -= np.float32(params.presence_penalty)
        found = ranking(logits, params, 12, history=prompt + output, prompt_len=len(prompt))
        assert found == np.argsort(-changed, kind="stable")[:12].tolist(), params


def test_tokens_past_the_position_are_not_penalised():
    logits = np.zeros(VOCAB, np.float32)
    logits[[5, 6]] = [2.0, 1.9]
    params = SamplingParams(presence_penalty=1.0)
    assert greedy(logits, params, history=[1, 1, 1, 5], positions=[4]) == 6
    assert greedy(logits, params, history=[1, 1, 1, 5], positions=[3]) == 5


def test_min_tokens_holds_back_stop_and_end_of_sequence_ids_until_then():
    logits = np.zeros(VOCAB, np.float32)
    logits[[7, 8, 9]] = [3.0, 2.0, 1.0]
    params = SamplingParams(min_tokens=2, stop_token_ids=(7,))
    chosen = [greedy(logits, params, positions=[3 + n], eos=(8,)) for n in range(4)]
    assert chosen == [9, 9, 7, 7]
    ignoring = SamplingParams(min_tokens=2, stop_token_ids=(7,), ignore_eos=True)
    assert greedy(logits, ignoring, eos=(8,)) == 8


@pytest.mark.parametrize("vocab_size", [7, 200, 8448])
def test_logprobs_are_of_the_unmodified_logits(vocab_size):
    logits = random_logits(4, vocab_size)
    logits[1, 3] = -np.inf
    logits[2, :6] = logits[2].max() + 1.0  # six equal ones: by id
    params = [
        SamplingParams(logprobs=20),
        SamplingParams(logprobs=0, temperature=2.0),
        SamplingParams(logprobs=6, presence_penalty=2.0, logit_bias=((5, 50.0),)),
        SamplingParams(temperature=1.0),
    ]
    state = allocate_sampling_state(NUM_SLOTS, MAX_LEN)
    state = set_slot(state, 2, *make_slot_arrays(params[2], [1, 2, 3], MAX_LEN))
    sampled = draw(logits, params, state=state, slots=[0, 1, 2, 3])
    exact = logits.astype(np.float64)
    logprobs = exact - scipy.special.logsumexp(exact, axis=1, keepdims=True)
    assert sampled.token_ids[2] == 5
    chosen = np.take_along_axis(logprobs, sampled.token_ids[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(sampled.logprobs, chosen, atol=2e-5)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :MAX_TOP]
    count = order.shape[1]
    np.testing.assert_array_equal(sampled.top_ids[:, :count], order)
    top = np.take_along_axis(logprobs, order, axis=1)
    np.testing.assert_allclose(sampled.top_logprobs[:, :count], top, atol=2e-5)
    assert np.all(sampled.top_logprobs[:, count:] == -np.inf)


@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("vocab_size", [200, 33_000])
@pytest.mark.parametrize("bad", ["nan", "inf", "all -inf"])
def test_a_row_that_cannot_be_sampled_is_reported_and_hurts_no_other(variant, vocab_size, bad):
    logits = random_logits(6, vocab_size)
    good = draw(logits, [SamplingParams()] * 6, variant=variant)
    broken = logits.copy()
    if bad == "nan":
        broken[[1, 4], [0, vocab_size - 1]] = np.nan
    elif bad == "inf":
        broken[[1, 4], 9] = np.inf
    else:
        broken[[1, 4]] = -np.inf
    params = [SamplingParams(), SamplingParams(temperature=1.0)] * 3
    params = params if variant is not Variant.GREEDY else [SamplingParams()] * 6
    sampled = draw(broken, params, variant=variant)
    assert sampled.ok.tolist() == [True, False, True, True, False, True]
    assert np.all((sampled.token_ids >= 0) & (sampled.token_ids < vocab_size))
    np.testing.assert_array_equal(sampled.token_ids[[0, 2]], good.token_ids[[0, 2]])


@pytest.mark.parametrize("variant", list(Variant))
def test_an_impossible_token_is_never_drawn(variant):
    logits = np.full((500, 300), -np.inf, np.float32)
    logits[:, [17, 130, 299]] = [[0.0, -60.0, 0.5]]
    params = [SamplingParams(temperature=1.0, top_p=0.999)] * 500
    sampled = draw(logits, params, variant=variant)
    assert set(sampled.token_ids.tolist()) <= {17, 299}
    assert sampled.ok.all()


def test_extreme_temperatures_stay_finite():
    logits = random_logits(3, 9000) * 1e30
    params = [SamplingParams(temperature=t) for t in (1e-40, 1e-6, 100.0)]
    for variant in (Variant.RANDOM, Variant.FULL):
        sampled = draw(logits, params, variant=variant)
        np.testing.assert_array_equal(sampled.token_ids, logits.argmax(axis=1))
        assert sampled.ok.all()


def test_rows_of_padding_are_greedy():
    sampled = draw(random_logits(1), [SamplingParams(temperature=1.0)], pad_to=4)
    assert sampled.token_ids[1:].tolist() == [0, 0, 0]
