"""Every way out of and back into the parameter tree gives the same tree."""

import json
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.models.checkpoint import load_hf
from helium_jax.models.config import ModelConfig
from helium_jax.models.dense_attention import attend_dense
from helium_jax.models.nnx_state import from_nnx_state, to_nnx_state
from helium_jax.models.orbax import restore_orbax, save_orbax
from helium_jax.models.params import init_params
from helium_jax.models.quantize import quantize
from helium_jax.models.save import save_hf
from helium_jax.models.shapes import SHAPES
from helium_jax.models.transformer import compute_logits, forward

CONFIG = ModelConfig.from_hf(
    {
        "model_type": "qwen3",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "vocab_size": 48,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "eos_token_id": [2, 3],
    }
)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(1))


def assert_equal_trees(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_saved_parity_model_loads_as_it_was(parity_case, random_model, tmp_path):
    folder, _ = random_model(*parity_case)
    model = load_hf(folder)
    save_hf(tmp_path, model.config, model.params)
    again = load_hf(tmp_path)
    assert again.config == model.config
    assert_equal_trees(again.params, model.params)


def test_saved_shards_load_as_they_were(params, tmp_path):
    save_hf(tmp_path, CONFIG, params, max_shard_bytes=8_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_equal_trees(load_hf(tmp_path).params, params)


def test_transformers_loads_what_is_saved_and_agrees(params, tmp_path, oracle):
    save_hf(tmp_path, CONFIG, params)
    with warnings.catch_warnings():  # transformers' own deprecations
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    ids = np.arange(20, dtype=np.int32)

    @jax.jit
    def logits_of(params):
        hidden, _ = forward(params, CONFIG, ids, jnp.arange(20), attend_dense, None)
        return compute_logits(params, CONFIG, hidden)

    found = logits_of(params)
    np.testing.assert_allclose(found, oracle(model, ids), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats_survive_saving(dtype, tmp_path):
    params = init_params(CONFIG, jax.random.key(2), jnp.dtype(dtype))
    save_hf(tmp_path, CONFIG, params)
    model = load_hf(tmp_path)
    assert model.config.dtype == dtype
    assert_equal_trees(model.params, params)


def test_bfloat16_weights_load_as_the_same_values_in_float32(tmp_path):
    params = init_params(CONFIG, jax.random.key(2), jnp.bfloat16)
    save_hf(tmp_path, CONFIG, params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    assert_equal_trees(load_hf(tmp_path, dtype="float32").params, widened)


def test_orbax_restores_the_same_tree(params, tmp_path):
    save_orbax(tmp_path / "checkpoint", CONFIG, params)
    config, restored = restore_orbax(tmp_path / "checkpoint")
    assert config == CONFIG
    assert_equal_trees(restored, params)


def test_orbax_refuses_a_config_of_another_shape(params, tmp_path):
    save_orbax(tmp_path / "checkpoint", CONFIG, params)
    path = tmp_path / "checkpoint" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 44}))
    with pytest.raises(
        ValueError,
        match=r"layers.0.ffn.gate_up in .* has shape \(40, 2, 32\); .* \(44, 2, 32\)",
    ):
        restore_orbax(tmp_path / "checkpoint")


def test_orbax_does_not_overwrite(params, tmp_path):
    save_orbax(tmp_path, CONFIG, params)
    with pytest.raises(FileExistsError, match="choose a new folder"):
        save_orbax(tmp_path, CONFIG, params)


def test_an_absent_orbax_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        restore_orbax(tmp_path / "nowhere")


def test_nnx_state_gives_the_same_tree_back(params):
    assert_equal_trees(from_nnx_state(CONFIG, to_nnx_state(params)), params)


def test_nnx_state_with_another_shape_is_refused(params):
    with pytest.raises(ValueError, match=r"'layers', 0, 'qkv'"):
        from_nnx_state(replace(CONFIG, num_kv_heads=4), to_nnx_state(params))


def test_nnx_state_with_too_little_or_too_much_is_refused(params):
    untied = replace(CONFIG, tie_embeddings=False)
    with pytest.raises(ValueError, match=r"has no .*unembedding"):
        from_nnx_state(untied, to_nnx_state(params))
    more = init_params(untied, jax.random.key(0))
    with pytest.raises(ValueError, match="no place for"):
        from_nnx_state(CONFIG, to_nnx_state(more))


def test_quantized_params_are_not_saved_as_weights(params, tmp_path):
    with pytest.raises(ValueError, match="int8 params cannot be saved"):
        save_hf(tmp_path, CONFIG, quantize(params))
    with pytest.raises(ValueError, match="int8 params cannot be saved"):
        save_orbax(tmp_path, CONFIG, quantize(params))


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_published_shape_can_be_said_in_its_config_json(shape):
    config = SHAPES[shape]
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_a_config_without_words_is_refused_by_field():
    with pytest.raises(ValueError, match=r"windows=\(8, None\) cannot be said in a 'llama'"):
        replace(SHAPES["bench-110m"], num_layers=2, windows=(8, None)).to_hf()
