"""Text bundles of the built-in model and of small tokenizers of other kinds."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from helium_jax.builtin import tiny_folder
from helium_jax.text import TextModel, load_text


@pytest.fixture(scope="session")
def tiny() -> TextModel:
    with tiny_folder() as folder:
        return load_text(folder)


@pytest.fixture(scope="session")
def sentencepiece_like(tmp_path_factory) -> TextModel:
    """Spaces as U+2581, bytes as <0x..>, the first space dropped: as Llama 2 has it."""
    words = ["▁", "▁the", "▁cat", "cat", "s", "▁s", "t", "e", "h", ".", "é"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>")]
    )
    folder = tmp_path_factory.mktemp("sentencepiece")
    return save_and_load(tokenizer, folder, {"bos_token": "<s>", "eos_token": "</s>"})


def save_and_load(tokenizer: Tokenizer, folder: Path, settings: dict) -> TextModel:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_text(folder)
