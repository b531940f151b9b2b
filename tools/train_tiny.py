"""Trains helium-tiny from a seed on the project's own tasks and writes its model folder.

    python tools/train_tiny.py --out /tmp/tiny0 --stage 0
    python tools/train_tiny.py --out /tmp/tiny1 --stage 1 --start /tmp/tiny0

and so on; the model card has the whole series. Everything is drawn from `--seed`: tokenizer
corpus, weights, tasks. `tools/tiny_card.py` measures the accuracy on tasks of another stream.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tiny_batches import Packer, Stage, batches, single_tasks
from tiny_export import save_params, write_config
from tiny_init import prepare_params
from tiny_tokenizer import save_tokenizer, train_tokenizer
from tokenizers import Tokenizer

from helium_jax.builtin.tasks import KINDS, Task, draw_task
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params
from helium_jax.models.transformer import Attend, compute_logits, forward

MAX_POSITION = 2048
RECORD = "training.jsonl"
VOCAB_SIZE = 1280
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 192,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": MAX_POSITION,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
STAGES = (
    Stage(
        steps=350,
        length=256,
        batch=8,
        facts=(1, 14),
        questions=(5, 9),
        reach=1200,
        short_share=0.4,
        copy_share=0.25,
        check_share=0.15,
        system_share=0.4,
    ),
    Stage(
        steps=900,
        length=512,
        batch=4,
        facts=(2, 50),
        questions=(8, 14),
        reach=1900,
        short_share=0.4,
        copy_share=0.1,
        check_share=0.35,
        system_share=0.8,
    ),
    Stage(
        steps=750,
        length=512,
        batch=4,
        facts=(2, 45),
        questions=(8, 14),
        reach=1900,
        short_share=0.85,
        copy_share=0.0,
        check_share=0.4,
        system_share=0.8,
        short_weights={
            "majority": 5,
            "assemble": 2,
            "copy": 1,
            "extract": 2,
            "add": 0.5,
        },
        other_weights={"reply": 3, "check": 1, "listed": 0.5},
    ),
    Stage(
        steps=900,
        length=512,
        batch=4,
        facts=(2, 45),
        questions=(8, 14),
        reach=1900,
        short_share=0.75,
        copy_share=0.0,
        check_share=0.6,
        system_share=0.8,
        short_weights={"majority": 6, "assemble": 3, "copy": 1, "extract": 1, "add": 2},
        other_weights={"reply": 1, "check": 4, "listed": 1.5},
    ),
    Stage(
        steps=350,
        length=1280,
        batch=2,
        facts=(4, 150),
        questions=(12, 20),
        reach=2047,
        short_share=0.8,
        copy_share=0.0,
        check_share=0.6,
        system_share=0.8,
        short_weights={"majority": 4, "assemble": 4, "copy": 2, "extract": 1, "add": 3},
        other_weights={"reply": 1, "check": 4, "listed": 1.5},
    ),
)
_EVAL_LENGTHS = {8: (512, 4), 40: (800, 3), 110: (2000, 1)}  # by facts: length, batch
_QUERY_CHUNK = 128


def attend_dense(seen, _cache, _layer, q, k, v, *, scale, window, soft_cap):  # noqa: ANN001, ANN201
    """Attention of [T] tokens among themselves under the mask seen [T, T].

    Softmax without subtracting the largest score: query and key norms bound the scores far below
    what float32 can hold, and passes over [N, T, T] are what a training step's time goes to. The
    row sums come out of the product with the values, as one more column.
    """
    del window, soft_cap  # helium-tiny has neither
    tokens, num_kv_heads, _ = k.shape
    group = q.shape[1] // num_kv_heads
    ones = jnp.ones_like(v[..., :1])
    k = jnp.repeat(k, group, axis=1).transpose(1, 0, 2)  # [N, T, H]
    v = jnp.repeat(jnp.concatenate([v, ones], axis=-1), group, axis=1).transpose(1, 0, 2)
    q = (q * scale).transpose(1, 0, 2)
    outs = []
    chunk = tokens // max(1, tokens // _QUERY_CHUNK)
    for start in range(0, tokens, chunk):  # keys behind a chunk of queries are never seen
        end = min(start + chunk, tokens)
        scores = jnp.einsum("nqh,nkh->nqk", q[:, start:end], k[:, :end])
        weights = jnp.exp(jnp.where(seen[None, start:end, :end], scores, -1e30))
        outs.append(jnp.einsum("nqk,nkh->nqh", weights, v[:, :end]))
    out = jnp.concatenate(outs, axis=1).transpose(1, 0, 2)  # [T, N, H + 1]
    return None, out[..., :-1] / jnp.maximum(out[..., -1:], 1e-30)


def sequence_logits(params: Params, config: ModelConfig, item: dict[str, jax.Array]) -> jax.Array:
    """Logits of the predicting rows of one packed sequence, [R, V]."""
    groups, branches = item["groups"], item["branches"]
    order = jnp.arange(groups.shape[0])
    seen = (
        (order[:, None] >= order[None, :])
        & (groups[:, None] == groups[None, :])
        & ((branches[None, :] == 0) | (branches[:, None] == branches[None, :]))
    )
    attend = partial(attend_dense, seen)
    hidden, _ = forward(params, config, item["ids"], item["positions"], cast(Attend, attend), None)
    return compute_logits(params, config, hidden[item["rows"]])


def loss_of(params: Params, config: ModelConfig, batch: dict[str, jax.Array]) -> jax.Array:
    """Weighted cross entropy of the answers' tokens."""
    logits = jax.vmap(lambda item: sequence_logits(params, config, item))(batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return jnp.sum(losses * batch["weights"]) / jnp.sum(batch["weights"])


def make_optimizer(steps: int, rate: float, decay: int) -> optax.GradientTransformation:
    """AdamW: warm-up, a constant rate, and `decay` last steps down to nothing."""
    warmup = min(100, steps // 4)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, rate, warmup),
            optax.constant_schedule(rate),
            optax.cosine_decay_schedule(rate, max(decay, 1)),
        ],
        [warmup, steps - decay],
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule,
            b1=0.9,
            b2=0.98,
            weight_decay=0.05,
            mask=lambda tree: jax.tree_util.tree_map_with_path(
                lambda path, _: "norm" not in path[-1].name, tree
            ),
        ),
    )


def evaluate(
    params: Params, config: ModelConfig, packer: Packer, tasks: list[Task], num_facts: int
) -> dict[str, float]:
    """Share of tasks per kind whose whole answer is what greedy decoding gives.

    Each token is predicted after the right ones: the answer is right exactly when all are.
    """
    wrong: set[int] = set()
    for batch in single_tasks(packer, tasks, *_EVAL_LENGTHS[num_facts]):
        owner = batch.pop("owner")
        chosen = np.asarray(_choose(params, config, batch))
        wrong |= set(owner[(chosen != batch["targets"]) & (owner >= 0)].tolist())
    right = Counter(task.kind for index, task in enumerate(tasks) if index not in wrong)
    total = Counter(task.kind for task in tasks)
    return {kind: right[kind] / total[kind] for kind in total}


@partial(jax.jit, static_argnames="config")
def _choose(params: Params, config: ModelConfig, batch: dict[str, jax.Array]) -> jax.Array:
    logits = jax.vmap(lambda item: sequence_logits(params, config, item))(batch)
    return jnp.argmax(logits, axis=-1)


def held_out(seed: int, each: int, num_facts: int) -> list[Task]:
    """`each` tasks of every kind from a stream that training never draws from."""
    rng = Random(f"held out {seed} {num_facts}")
    return [draw_task(rng, kind, num_facts=num_facts) for kind in KINDS for _ in range(each)]


def train(args: argparse.Namespace, config: ModelConfig, packer: Packer) -> Iterator[Params]:
    """Trains through one stage; yields the weights at every checkpoint, the last ones last."""
    stage = STAGES[args.stage]
    stage = replace(stage, steps=args.steps or stage.steps)
    optimizer = make_optimizer(stage.steps, args.rate, args.decay)
    if args.start:
        params = load_hf(args.start, dtype="float32").params
    else:
        params = prepare_params(config, args.seed)
    state = optimizer.init(params)  # pyright: ignore[reportArgumentType]

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, config, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    tokens, start, last = 0, time.monotonic(), time.monotonic()
    stream = f"training {args.seed} {args.stage}"
    for count, batch in enumerate(batches(packer, stage, stream), 1):
        params, state, loss = step(params, state, batch)
        tokens += int((batch["groups"] > 0).sum())
        if count % 25 == 0 or count == stage.steps:
            seconds = time.monotonic() - start
            print(
                f"stage {args.stage} step {count}/{stage.steps} loss {float(loss):.3f} "
                f"tokens {tokens} {tokens / seconds:.0f} tokens/s {seconds:.0f} s",
                flush=True,
            )
        if time.monotonic() - last > args.every:
            last = time.monotonic()
            yield params
    seconds = round(time.monotonic() - start)
    write_record(args, {"steps": stage.steps, "tokens": tokens, "seconds": seconds})
    yield params


def write_record(args: argparse.Namespace, done: dict[str, int]) -> None:
    """Adds this stage to the record of the weights it started from, for the model card."""
    before = args.start / RECORD if args.start else None
    lines = before.read_text(encoding="utf-8") if before and before.is_file() else ""
    settings = {name: getattr(args, name) for name in ("stage", "seed", "rate", "decay")}
    (args.out / RECORD).write_text(lines + json.dumps(settings | done) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--stage", type=int, default=0, help="which part of the curriculum")
    parser.add_argument("--steps", type=int, help="instead of the stage's own")
    parser.add_argument("--decay", type=int, default=0, help="last steps, of falling rate")
    parser.add_argument("--every", type=float, default=240.0, help="seconds between checkpoints")
    parser.add_argument("--start", type=Path, help="folder whose weights to start from")
    args = parser.parse_args()

    if args.start:
        tokenizer = Tokenizer.from_file(str(args.start / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(VOCAB_SIZE, args.seed)
    ids = tokenizer.get_vocab()
    save_tokenizer(tokenizer, args.out, MAX_POSITION)
    hf = write_config(args.out, SHAPE, eos=ids["<|im_end|>"], pad=ids["<|endoftext|>"])
    config = ModelConfig.from_hf(hf)
    packer = Packer(tokenizer)
    for params in train(args, config, packer):
        save_params(params, config, args.out)
        for num_facts in (8, 40):
            tasks = held_out(args.seed, 40, num_facts)
            scores = evaluate(params, config, packer, tasks, num_facts)
            line = " ".join(f"{kind} {score:.2f}" for kind, score in scores.items())
            print(f"held out, {num_facts} facts: {line}", flush=True)


if __name__ == "__main__":
    main()
