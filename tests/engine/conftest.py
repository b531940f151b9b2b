"""A tiny random model, engines over it, and the oracle: dense attention over the whole prefix."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.config import DeviceInfo, EngineConfig, ModelShape, resolve
from helium_jax.engine import Loop, Runner
from helium_jax.models.config import ModelConfig
from helium_jax.models.dense_attention import attend_dense
from helium_jax.models.params import init_params
from helium_jax.models.rope import Rope
from helium_jax.models.transformer import compute_logits, forward
from helium_jax.types import ModelInfo

EOS = 0
MAX_MODEL_LEN = 128
MODEL = ModelConfig(
    family="qwen3",
    vocab_size=89,
    width=32,
    num_layers=2,
    num_q_heads=4,
    num_kv_heads=2,
    head_size=8,
    ffn_width=64,
    max_position=MAX_MODEL_LEN,
    rope=Rope(theta=10000.0),
    qk_norm=True,
    eos_token_ids=(EOS,),
)
INFO = ModelInfo(
    name="tiny-random",
    vocab_size=MODEL.vocab_size,
    max_model_len=MAX_MODEL_LEN,
    max_num_seqs=4,
    eos_token_ids=frozenset((EOS,)),
    version="test",
)


@pytest.fixture(scope="module", autouse=True)
def compiler(quick_compiler):
    """Modules about bits override this, tests about bits or memory ask for `full_compiler`."""


@cache
def tiny_params():
    return init_params(MODEL, jax.random.key(7))


def resolved(**options):
    options = {
        "page_size": 16,
        "num_pages": 64,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        **options,
    }
    return resolve(
        EngineConfig(**options),
        DeviceInfo(platform="cpu", memory_bytes=2**30),
        ModelShape(
            max_position=MAX_MODEL_LEN,
            kv_elements_per_token=MODEL.kv_elements_per_token,
            num_params=100_000,
        ),
    )


@pytest.fixture
def make_loop(make_loop_module):
    """As `make_loop_module`."""
    return make_loop_module


@cache
def _first_runner(config, quickly_compiled):
    """Compiles what tests need, when they need it; all others of its configuration are replicas."""
    return Runner(tiny_params(), MODEL, config)


@pytest.fixture(scope="module")
def make_loop_module():
    """A function of engine options that gives a function of nothing that builds the loop.

    Without `warm_up` only the programs that a test needs are compiled, when it needs them, once for
    all tests of a configuration.
    """

    def with_options(*, warm_up=False, **options):
        config = resolved(**options)

        def build():
            if warm_up:
                runner = Runner(tiny_params(), MODEL, config)
                runner.warm_up()
            else:
                quickly = jax.config.values["jax_disable_most_optimizations"]
                runner = _first_runner(config, quickly).replica()
            return Loop(runner, INFO, config)

        return build

    return with_options


@partial(jax.jit, static_argnames="config")
def _all_logits(params, token_ids, config):
    positions = jnp.arange(token_ids.shape[0])
    hidden, _ = forward(params, config, token_ids, positions, attend_dense, None)
    return compute_logits(params, config, hidden)


def oracle_logits(token_ids):
    """float32 [len(token_ids), V], by one dense pass."""
    padded = np.zeros(MAX_MODEL_LEN, np.int32)
    padded[: len(token_ids)] = token_ids
    return np.asarray(_all_logits(tiny_params(), padded, MODEL))[: len(token_ids)]


def oracle_greedy(prompt, max_tokens):
    """What greedy decoding must give, alone and without any cache."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(int(oracle_logits(tokens)[-1].argmax()))
        if tokens[-1] == EOS or len(tokens) == MAX_MODEL_LEN:
            break
    return tuple(tokens[len(prompt) :])
