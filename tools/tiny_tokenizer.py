"""helium-tiny's tokenizer: byte-level BPE trained on its own tasks, in Hugging Face's files."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from helium_jax.builtin import words
from helium_jax.builtin.tasks import KINDS, draw_task

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Words never carry a space, so a word is the same token wherever it stands; punctuation carries
# the space behind it; digits stand alone.
_PIECES = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+ ?|\n+|[^\S\n]+"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def train_tokenizer(vocab_size: int, seed: int) -> Tokenizer:
    """All 256 bytes, the specials, and merges learnt from the tasks' text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(Random(seed)), trainer)
    return tokenizer


def _corpus(rng: Random) -> Iterator[str]:
    every_word = [word for name in dir(words) if name.isupper() for word in getattr(words, name)]
    yield "system\nuser\nassistant\n"
    yield from [" ".join(every_word)] * 200  # so that each becomes one token
    for _ in range(300):
        for kind in KINDS:
            task = draw_task(rng, kind, num_facts=3)
            yield from (message["content"] for message in task.messages)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_position: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_position,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
