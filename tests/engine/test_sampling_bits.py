"""A row's sample is bit equal alone and in any batch, as the full compiler makes it."""

import jax
import pytest

from helium_jax.engine.sampling_state import allocate_sampling_state, make_slot_arrays, set_slot
from helium_jax.types import SamplingParams
from tests.engine.test_sampling import MAX_LEN, NUM_SLOTS, draw, random_logits


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Bits are promised of what the full compiler makes, so nothing quick may be left."""
    jax.clear_caches()


MIXED = [
    SamplingParams(),
    SamplingParams(temperature=1.0, seed=4),
    SamplingParams(temperature=0.6, top_k=20, top_p=0.95),
    SamplingParams(temperature=0.9, top_p=0.9),
    SamplingParams(temperature=1.2, top_k=500, min_p=0.02),
    SamplingParams(frequency_penalty=1.0, temperature=1.0),
    SamplingParams(logprobs=5),
    SamplingParams(temperature=1.0, logprobs=0, logit_bias=((7, 3.0),)),
]


@pytest.mark.parametrize("vocab_size", [200, 10_001])
@pytest.mark.parametrize("params", MIXED)
def test_a_row_is_bit_equal_alone_and_in_any_batch(params, vocab_size):
    logits = random_logits(1, vocab_size, seed=3)
    others = random_logits(32, vocab_size, seed=4)
    state = allocate_sampling_state(NUM_SLOTS, MAX_LEN)
    state = set_slot(state, 2, *make_slot_arrays(params, [5, 6, 7, 5], MAX_LEN))
    state = set_slot(state, 3, *make_slot_arrays(params, [5, 6, 7, 5], MAX_LEN))
    results = []
    for num_rows, place, slot in ((1, 0, 2), (8, 5, 2), (32, 0, 3)):
        rows = [MIXED[i % len(MIXED)] for i in range(num_rows)]
        rows[place] = params
        batch = others[:num_rows].copy()
        batch[place] = logits[0]
        sampled = draw(
            batch,
            rows,
            state=state,
            seeds=[1000 + i if i != place else 99 for i in range(num_rows)],
            positions=[4] * num_rows,
            slots=[slot if i == place else 0 for i in range(num_rows)],
        )
        results.append((sampled.token_ids[place], sampled.logprobs[place]))
    tokens = [token for token, _ in results]
    assert tokens == [tokens[0]] * len(tokens)
    if params.logprobs is not None:
        logprobs = [logprob.tobytes() for _, logprob in results]
        assert logprobs == [logprobs[0]] * len(logprobs)
