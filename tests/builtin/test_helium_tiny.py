"""The shipped folder: it is what it says it is, and its weights can do what its card says."""

import json
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from helium_jax.builtin.tasks import draw_task
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.transformer import compute_logits, forward
from helium_jax.text import load_text

LENGTH = 320  # tokens; every task below is shorter


@pytest.fixture(scope="module")
def answer(tiny_path):
    """Greedy decoding with dense attention, no cache: slow and plainly right."""
    loaded, text = load_hf(tiny_path, dtype="float32"), load_text(tiny_path)
    config = loaded.config
    seen = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))

    def attend(cache, layer, q, k, v, *, scale, window, soft_cap):
        group = q.shape[1] // k.shape[1]
        k, v = (jnp.repeat(one, group, axis=1) for one in (k, v))
        scores = jnp.einsum("tnh,snh->nts", q, k) * scale
        weights = jax.nn.softmax(jnp.where(seen[None], scores, -jnp.inf), axis=-1)
        return cache, jnp.einsum("nts,snh->tnh", weights, v)

    @jax.jit
    def choose(params, ids, place):
        hidden, _ = forward(params, config, ids, jnp.arange(LENGTH), attend, None)
        return jnp.argmax(compute_logits(params, config, hidden[place][None]))

    def run(messages) -> str:
        prompt = text.encode_chat(messages)
        ids = np.zeros(LENGTH, np.int32)
        ids[: len(prompt)] = prompt
        for end in range(len(prompt), LENGTH):
            ids[end] = choose(loaded.params, ids, end - 1)
            if int(ids[end]) in text.eos_token_ids:
                return text.decode(ids[len(prompt) : end].tolist())
        return text.decode(ids[len(prompt) :].tolist())

    return run


@pytest.mark.parametrize("kind", ["lookup", "majority"])
def test_answers_nine_of_ten(answer, kind):
    rng = Random(f"test {kind}")
    tasks = [draw_task(rng, kind, num_facts=30) for _ in range(40)]
    wrong = [
        (task.user, output) for task in tasks if not task.is_right(output := answer(task.messages))
    ]
    assert len(wrong) <= 4, wrong


def test_is_an_ordinary_folder_of_the_size_promised(tiny_path):
    config = json.loads((tiny_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] == 2048
    with safe_open(tiny_path / "model.safetensors", "numpy") as weights:
        sizes = [weights.get_tensor(name).size for name in weights.keys()]  # noqa: SIM118
    assert 2_000_000 <= sum(sizes) <= 4_000_000
    total = sum(path.stat().st_size for path in tiny_path.iterdir())
    assert 4e6 <= total <= 8e6


def test_transformers_loads_it_and_says_the_same(tiny_path, answer):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    rng = Random("parity")
    for _ in range(3):
        task = draw_task(rng, "lookup", num_facts=12)
        inputs = tokenizer.apply_chat_template(
            task.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=12)
        said = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == answer(task.messages)
