"""A config.json is read in full or refused with the field, its value and what is supported."""

import pytest

from helium_jax.models.config import ModelConfig
from helium_jax.models.rope import Rope

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}


def read(**changes):
    return ModelConfig.from_hf({**LLAMA, **changes})


def test_defaults_follow_the_sizes():
    config = read()
    assert (config.num_kv_heads, config.head_size, config.windows) == (4, 16, (None, None))
    assert config.query_scale == 16**-0.5
    assert config.kv_elements_per_token == 2 * 2 * 4 * 16


def test_a_config_is_hashable_and_equal_by_value():
    assert hash(read(eos_token_id=[1, 2])) == hash(read(eos_token_id=[1, 2]))
    assert read(eos_token_id=3).eos_token_ids == (3,)


def test_old_and_new_words_for_rope_mean_the_same():
    numbers = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    old = read(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **numbers})
    older = read(rope_theta=5e5, rope_scaling={"type": "llama3", **numbers})
    new = read(rope_parameters={"rope_theta": 5e5, "rope_type": "llama3", **numbers})
    assert old == older == new
    assert old.rope == Rope(theta=5e5, scaling="llama3", factor=8.0, original_max_position=64)


def test_dynamic_rope_is_no_scaling_within_the_original_context():
    config = read(rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    assert config.rope == Rope(theta=10000.0)
    assert config.max_position == 256  # what lies beyond cannot be served from a KV cache


def test_old_gemma3_words_mean_two_ropes_and_a_pattern_of_windows():
    config = ModelConfig.from_hf(
        {
            **LLAMA,
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "head_dim": 16,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 16,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window": 32,
            "sliding_window_pattern": 3,
        }
    )
    assert config.windows == (32, 32, None, 32, 32, None)
    assert config.rope_of(0) == Rope(theta=1e4)
    assert config.rope_of(2) == Rope(theta=1e6, scaling="linear", factor=8.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, r"model_type='gpt2' is not supported; supported: \['llama'"),
        ({"model_type": None}, "no 'model_type'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"hidden_size": "64"}, "hidden_size='64' must be of type int"),
        ({"hidden_size": True}, "hidden_size=True must be of type int"),
        ({"hidden_act": "relu"}, r"hidden_act='relu' is not supported; supported: \['silu'"),
        ({"dtype": "float8_e4m3fn"}, "dtype='float8_e4m3fn' is not supported"),
        ({"num_key_value_heads": 3}, "num_q_heads=4 must be a multiple of self.num_kv_heads=3"),
        ({"head_dim": 15}, "head_size=15 must be even"),
        ({"num_hidden_layers": 0}, "num_layers=0 must be at least 1"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config=\{'bits': 4\} is not"),
        ({"pretraining_tp": 2}, r"pretraining_tp=2 is not supported; supported: only \[1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ({"sliding_window": 128}, "sliding_window=128 is not supported; supported: leaving it"),
        ({"new_invention": 3}, "new_invention=3 is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, r"rope type 'longrope' .*'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope factor=None of 'linear' must be"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope factor=0 of"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' has no low_freq"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "sharpness": 3}},
            r"\{'sharpness': 3\} are not supported for 'yarn'",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        read(**changes)


def test_layer_types_must_fit_the_layers_and_be_known():
    qwen = {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 8}
    assert read(**qwen, layer_types=["sliding_attention", "full_attention"]).windows == (8, None)
    with pytest.raises(ValueError, match="layer_types has 1 entries for num_hidden_layers=2"):
        read(**qwen, layer_types=["full_attention"])
    with pytest.raises(ValueError, match=r"layer_types=.*linear_attention.* supported"):
        read(**qwen, layer_types=["full_attention", "linear_attention"])
