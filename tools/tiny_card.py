"""Measures a helium-tiny folder on held-out tasks and writes its model card.

python tools/tiny_card.py helium_jax/builtin/helium-tiny --hardware "2 cores of ..."
python tools/tiny_card.py helium_jax/builtin/helium-tiny --int8
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import jax
from tiny_batches import Packer
from tokenizers import Tokenizer
from train_tiny import RECORD, evaluate, held_out

from helium_jax.builtin.tasks import SCENE_TASKS, SHORT_TASKS, Task
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.quantize import quantize

_WHAT = {
    "lookup": "the value of one key",
    "reply": "the same after hearing one to three answers of others, some of them wrong",
    "check": "whether a key has a value: yes or no, chance is 50 %",
    "listed": "whether there is such a key: yes or no, chance is 50 %",
    "majority": "what more than half of 3 to 7 listed answers say",
    "assemble": "2 to 8 listed answers on one line",
    "copy": "1 to 24 words, numbers or letters, said again",
    "extract": "2 to 4 fields of a sentence as name=value pairs",
    "add": "the sum of two numbers from 0 to 9; all sums occur in training",
}
_FACTS = (8, 40, 110)
_CARD = Path(__file__).with_name("tiny_card.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=200, help="tasks of a kind and length")
    parser.add_argument("--seed", type=int, default=1, help="of the held-out tasks")
    parser.add_argument("--hardware", default="", help="what it was trained on, for the card")
    parser.add_argument("--int8", action="store_true", help="print int8 accuracy, write no card")
    parser.add_argument("--remarks", default="", help="what to say below the tables")
    args = parser.parse_args()

    loaded = load_hf(args.folder, dtype="float32")
    params = quantize(loaded.params) if args.int8 else loaded.params
    config = loaded.config
    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    packer = Packer(tokenizer)
    scores: dict[int, dict[str, float]] = {}
    lengths: list[int] = []
    for num_facts in _FACTS:
        tasks = held_out(args.seed, args.each, num_facts)
        if num_facts != _FACTS[0]:
            tasks = [task for task in tasks if task.kind in SCENE_TASKS]
        lengths = [_num_tokens(tokenizer, task) for task in tasks]
        scores[num_facts] = evaluate(params, config, packer, tasks, num_facts)
        print(num_facts, json.dumps(scores[num_facts]), flush=True)
    if args.int8:
        return
    records = [json.loads(line) for line in (args.folder / RECORD).read_text().splitlines()]
    hf = json.loads((args.folder / "config.json").read_text())
    shape = (
        f"{config.num_layers} layers, width {config.width}, {config.num_q_heads} query and "
        f"{config.num_kv_heads} KV heads of {config.head_size}, feed-forward {config.ffn_width}"
    )
    card = _CARD.read_text(encoding="utf-8").format(
        millions=sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) / 1e6,
        shape=shape,
        vocab=config.vocab_size,
        dtype=hf["dtype"],
        each=args.each,
        eval_seed=args.seed,
        shortest=min(lengths),
        longest=max(lengths),
        scene_rows="\n".join(
            f"| {kind} | {_WHAT[kind]} | "
            + " | ".join(f"{scores[num_facts][kind]:.1%}" for num_facts in _FACTS)
            + " |"
            for kind in SCENE_TASKS
        ),
        short_rows="\n".join(
            f"| {kind} | {_WHAT[kind]} | {scores[_FACTS[0]][kind]:.1%} |" for kind in SHORT_TASKS
        ),
        remarks=args.remarks,
        tokens=sum(record["tokens"] for record in records),
        minutes=sum(record["seconds"] for record in records) / 60,
        hardware=args.hardware,
        jax=jax.__version__,
        optax=version("optax"),
        tokenizers=version("tokenizers"),
        python=platform.python_version(),
        commands=_commands(records),
    )
    (args.folder / "README.md").write_text(card.replace("\n\n\n", "\n\n"), encoding="utf-8")


def _num_tokens(tokenizer: Tokenizer, task: Task) -> int:
    return len(tokenizer.encode(task.context).ids)


def _commands(records: list[dict]) -> str:
    lines = []
    for place, record in enumerate(records):
        out = f"/tmp/tiny{place}" if place + 1 < len(records) else "helium_jax/builtin/helium-tiny"
        start = f" --start /tmp/tiny{place - 1}" if place else ""
        names = ("stage", "steps", "rate", "decay", "seed")
        flags = " ".join(f"--{name} {record[name]}" for name in names)
        lines.append(f"python tools/train_tiny.py --out {out} {flags}{start}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
