"""Writes a folder with a random Llama made by transformers, with a tokenizer for who insists.

python -m bench.make_model runs/bench-110m
"""

import argparse
import string
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

# By name: a type checker would read for minutes what these two import.
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

SHAPES: dict[str, dict[str, Any]] = {
    # About 110 M parameters; `random:bench-110m` of helium_jax is the same shape.
    "110m": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
    },
    # To try the scripts in seconds.
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
}


def make_model(folder: Path, shape: str, seed: int = 0) -> None:
    """Writes config.json, model.safetensors in float32, and a byte-level tokenizer.json."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        **SHAPES[shape], bos_token_id=1, eos_token_id=2, dtype="float32"
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    _make_tokenizer(config.vocab_size).save_pretrained(folder)


def _make_tokenizer(vocab_size: int) -> Any:
    """A `PreTrainedTokenizerFast` of bytes, then fillers up to the size: every id decodes to
    something.
    """
    symbols = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    symbols += [f"{string.ascii_letters[i % 52]}{i}" for i in range(vocab_size - len(symbols))]
    tokenizer = Tokenizer(
        models.BPE({symbol: i for i, symbol in enumerate(symbols)}, [], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="110m")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_model(arguments.folder, arguments.shape, arguments.seed)
    print(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
