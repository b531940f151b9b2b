"""What a KV pool in fewer bits costs in answers: next tokens after the same text, by pool dtype.

`python -m bench.bench_kv_dtype [--model FOLDER]`. Every position of the continuations that the
unquantized engine chose greedily is asked again of an engine with another pool, after the same
tokens; what it chooses there and how sure it is of the first one's token is compared.
"""

import argparse

import numpy as np

from bench.harness import Recorder
from helium_jax.config import EngineConfig
from helium_jax.runtime import load_text_of, open_engine
from helium_jax.types import GenerateRequest, SamplingParams

TEXTS = (
    "The library opens at nine in the morning and",
    "To make bread you need flour, water and",
    "Question: what is the capital of France? Answer:",
    "Once upon a time there was a fox who",
    "The three largest rivers of the country are",
    '{"name": "Ada", "born": 1815, "field":',
    "def add(a, b):\n    return",
    "Dear colleagues, I am writing to you because",
)


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="helium-tiny")
    parser.add_argument("--tokens", type=int, default=64, help="of each continuation")
    parser.add_argument("--kv-dtypes", default="bfloat16,float16,int8,fp8")
    options = parser.parse_args()
    tokenizer = load_text_of(options.model).tokenizer
    prompts = [tuple(tokenizer.encode(text)) for text in TEXTS]
    recorder = Recorder("kv-dtype")

    def ask(kv_dtype: str | None, prefixes: list[tuple[int, ...]], count: int) -> list:
        """Tokens and their log-probabilities after every prefix."""
        config = EngineConfig(
            dtype="float32", kv_dtype=kv_dtype, max_num_seqs=16, max_num_batched_tokens=64,
            page_size=32,
        )  # fmt: skip
        with open_engine(options.model, config) as engine:
            for number, prefix in enumerate(prefixes):
                sampling = SamplingParams(max_tokens=count, ignore_eos=True, logprobs=5)
                engine.submit(
                    GenerateRequest(request_id=str(number), token_ids=prefix, sampling=sampling)
                )
            answers = []
            for number in range(len(prefixes)):
                events = [*engine.stream(str(number))]
                ids = [token for event in events for token in event.token_ids]
                answers.append((ids, [p for event in events for p in event.logprobs]))
            return answers

    full = [ids for ids, _ in ask(None, prompts, options.tokens)]
    prefixes = [
        (*prompt, *ids[:i])
        for prompt, ids in zip(prompts, full, strict=True)
        for i in range(len(ids))
    ]
    expected = ask(None, prefixes, 1)
    for kv_dtype in options.kv_dtypes.split(","):
        answers = ask(kv_dtype, prefixes, 1)
        equal = [a[0] == b[0] for a, b in zip(answers, expected, strict=True)]
        change = [
            abs(dict(a[1][0].top).get(b[0][0], -10.0) - b[1][0].logprob)
            for a, b in zip(answers, expected, strict=True)
        ]
        free = [ids for ids, _ in ask(kv_dtype, prompts, options.tokens)]
        agreed = [
            next((i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), len(pair[0]))
            for pair in zip(free, full, strict=True)
        ]
        recorder.record(
            "next token", kv_dtype, num_positions=len(equal), equal_share=float(np.mean(equal)),
            mean_logprob_change=float(np.mean(change)), max_logprob_change=float(np.max(change)),
            mean_tokens_until_different=float(np.mean(agreed)), num_tokens=options.tokens,
        )  # fmt: skip


if __name__ == "__main__":
    main()
