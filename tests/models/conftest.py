"""Tiny random models made by transformers, saved as folders: the oracle of the parity tests."""

import warnings

import numpy as np
import pytest

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MOE = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 7}
GEMMA3_LAYERS = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def rope(theta=10000.0, **scaling):
    return {"rope_parameters": {"rope_theta": theta, **scaling}}


# (family, case): what differs from SIZES
PARITY_CASES = {
    ("llama", "untied, GQA 2"): {},
    ("llama", "tied, GQA 4"): {"tie_word_embeddings": True, "num_key_value_heads": 1},
    ("llama", "GQA 1, biases everywhere"): {
        "num_key_value_heads": 4,
        "attention_bias": True,
        "mlp_bias": True,
    },
    ("llama", "GQA 8, head size 20"): {
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 20,
    },
    ("llama", "rope linear"): rope(rope_type="linear", factor=3.0),
    ("llama", "rope dynamic"): rope(rope_type="dynamic", factor=2.0),
    ("llama", "rope llama3"): rope(500000.0, **LLAMA3),
    ("llama", "rope yarn"): rope(**YARN),
    ("mistral", "window 5"): {"sliding_window": 5},
    ("mistral", "no window, head size 48"): {"sliding_window": None, "head_dim": 48},
    ("mixtral", "4 experts, 2 chosen"): {"num_local_experts": 4, "num_experts_per_tok": 2},
    ("mixtral", "window 6"): {"num_local_experts": 4, "sliding_window": 6},
    ("qwen2", "biases, tied"): {"tie_word_embeddings": True},
    ("qwen2", "untied, window on the last layer"): {
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    },
    ("qwen2", "rope yarn, mscale"): rope(**YARN, mscale=1.2, mscale_all_dim=0.7),
    ("qwen3", "tied, head size 20"): {"tie_word_embeddings": True, "head_dim": 20},
    ("qwen3", "untied, GQA 4"): {"num_key_value_heads": 1, "head_dim": 32},
    ("qwen3", "attention bias, yarn not truncated"): {
        "attention_bias": True,
        "head_dim": 24,
        **rope(**YARN, truncate=False, beta_fast=8.0, beta_slow=2.0),
    },
    ("qwen3_moe", "8 experts, not normalised"): {**MOE, "num_experts": 8, "head_dim": 16},
    ("qwen3_moe", "normalised, first layer dense"): {
        **MOE,
        "num_experts": 4,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
        "head_dim": 20,
        "tie_word_embeddings": True,
    },
    ("gemma2", "soft caps, alternating windows"): {**GEMMA, "attn_logit_softcapping": 5.0},
    ("gemma2", "no soft caps, head size 20"): {
        **GEMMA,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "head_dim": 20,
    },
    ("gemma3_text", "two ropes, windows"): {**GEMMA, **GEMMA3_LAYERS},
    ("gemma3_text", "linear rope on full layers, GQA 4"): {
        **GEMMA,
        **GEMMA3_LAYERS,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}


def save_random_model(folder, family, overrides, *, seed=0, **save_options):
    """Saves a random transformers model; returns it. Weights are larger than its own init."""
    with warnings.catch_warnings():  # transformers' own deprecations on import and on saving
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.manual_seed(seed)
        config = transformers.AutoConfig.for_model(family, **{**SIZES, **overrides})
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        model = model.to(torch.float32).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    weight.add_(torch.randn_like(weight) * 0.2)
                else:
                    weight.normal_(0.0, 1.5 * weight.shape[-1] ** -0.5)
        model.save_pretrained(folder, **save_options)
    return model


def oracle_logits(model, token_ids):
    """Logits [T, V] of transformers for one prompt, as numpy."""
    torch = pytest.importorskip("torch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.tensor(np.asarray(token_ids)[None], dtype=torch.int64)
        return model(input_ids=ids, use_cache=False).logits[0].float().numpy()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Makes, once per case, (folder, transformers model) of a parity case."""
    made = {}

    def make(family, case):
        if (family, case) not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family, case] = (
                folder,
                save_random_model(folder, family, PARITY_CASES[family, case]),
            )
        return made[family, case]

    return make


@pytest.fixture(params=list(PARITY_CASES), ids=lambda case: f"{case[0]}: {case[1]}")
def parity_case(request):
    """(family, case) of every row of the parity table."""
    return request.param


@pytest.fixture(scope="session")
def oracle():
    """The function `oracle_logits`."""
    return oracle_logits


@pytest.fixture(scope="session")
def save_model():
    """The function `save_random_model`."""
    return save_random_model
