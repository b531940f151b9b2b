"""Vectors of texts: right, the same in any company, and no trouble for what runs."""

import asyncio

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.engine import AsyncEngine, EnginePool
from helium_jax.errors import CapacityError, RequestError
from helium_jax.models.dense_attention import BLOCK_ROWS, attend_dense, attend_dense_blocks
from helium_jax.models.transformer import forward
from helium_jax.types import Embeds, GenerateRequest, SamplingParams
from tests.engine.conftest import MAX_MODEL_LEN, MODEL, oracle_greedy, tiny_params


def text(length, seed=0):
    drawn = np.random.default_rng(seed).integers(1, MODEL.vocab_size, length)
    return tuple(int(one) for one in drawn)


@jax.jit
def hidden_states(params, token_ids):
    positions = jnp.arange(token_ids.shape[0])
    return forward(params, MODEL, token_ids, positions, attend_dense, None)[0]


def plain_vector(token_ids):
    """The mean of the hidden states of one plain forward pass, of length one."""
    padded = np.zeros(MAX_MODEL_LEN, np.int32)
    padded[: len(token_ids)] = token_ids
    hidden = np.asarray(hidden_states(tiny_params(), padded), np.float64)
    mean = hidden[: len(token_ids)].mean(axis=0)
    return mean / np.linalg.norm(mean)


@pytest.fixture
async def engine(make_loop):
    async with AsyncEngine(make_loop()) as engine:
        yield engine


async def test_a_vector_is_the_mean_of_a_plain_forward_pass(engine):
    assert engine.embedding_size == MODEL.width
    for length in (1, 32, 33, MAX_MODEL_LEN):
        vector = np.asarray(await engine.embed(text(length)))
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(vector, plain_vector(text(length)), atol=2e-6)


async def test_company_changes_no_bit(engine):
    texts = [text(length, seed=length) for length in (3, 40, 64, 5, 33)]
    alone = [await engine.embed(one) for one in texts]
    asked = [engine.embed(one) for one in reversed(texts)]
    together = await asyncio.gather(*asked, generate(engine, text(9), 12))
    assert [*reversed(together[:-1])] == alone
    assert together[-1] == oracle_greedy(text(9), 12)


async def test_running_sequences_go_on_and_no_step_is_compiled_for_a_vector(engine):
    before = await generate(engine, text(20), 8)
    compiled = engine.statistics()[0].num_compiles_after_warmup
    answers = await asyncio.gather(
        generate(engine, text(20), 8), *(engine.embed(text(10)) for _ in range(5))
    )
    assert answers[0] == before
    assert engine.statistics()[0].num_compiles_after_warmup == compiled


async def test_what_is_no_text_is_refused(engine):
    for ids, message in (
        ((), "empty"),
        ((MODEL.vocab_size,), "is not in"),
        (text(MAX_MODEL_LEN + 1), "exceeds the context"),
    ):
        with pytest.raises(RequestError, match=message):
            await engine.embed(ids)


async def test_a_pool_makes_vectors_on_any_worker(make_loop):
    async with EnginePool([AsyncEngine(make_loop()) for _ in range(2)]) as pool:
        assert isinstance(pool, Embeds)
        np.testing.assert_allclose(await pool.embed(text(7)), plain_vector(text(7)), atol=2e-6)


async def test_a_closed_engine_makes_none(make_loop):
    engine = AsyncEngine(make_loop())
    await engine.start()
    await engine.close()
    with pytest.raises(CapacityError, match="shutting down"):
        await engine.embed(text(3))


def test_long_texts_are_attended_to_in_blocks():
    assert MAX_MODEL_LEN <= BLOCK_ROWS, "else the tests above cover this"
    rng = np.random.default_rng(0)
    tokens, heads, kv_heads, size = 3 * BLOCK_ROWS, 4, 2, 8
    q, k, v = (
        rng.normal(size=(tokens, n, size)).astype(np.float32) for n in (heads, kv_heads, kv_heads)
    )
    for window in (None, 40):
        options = {"scale": 0.3, "window": window, "soft_cap": 5.0}
        _, whole = attend_dense(None, 0, q, k, v, **options)
        _, blocks = attend_dense_blocks(None, 0, q, k, v, **options)
        np.testing.assert_allclose(blocks, whole, atol=1e-5)


async def generate(engine, prompt, max_tokens):
    request = GenerateRequest(
        request_id=f"g{id(prompt)}-{max_tokens}",
        token_ids=prompt,
        sampling=SamplingParams(max_tokens=max_tokens),
    )
    return tuple([i async for event in engine.generate(request) for i in event.token_ids])
