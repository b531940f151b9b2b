"""Every family through real KV pages: any chunking, token by token, and after prefix reuse."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from helium_jax.kernels.attention import (
    make_layout,
    pack_batch,
    paged_attention,
    unpack_batch,
)
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import allocate_pages
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.transformer import compute_logits, forward
from tests.models.conftest import PARITY_CASES

PAGE_SIZE, NUM_PAGES, NUM_SEQS, BUCKET = 4, 24, 3, 16
LENGTH = 21
LAYOUT = make_layout(
    num_tokens=BUCKET,
    num_seqs=NUM_SEQS,
    pages_per_seq=8,
    page_size=PAGE_SIZE,
    num_pages=NUM_PAGES,
)


@functools.partial(
    jax.jit,
    static_argnames="config",
    donate_argnames="pages",
    # Same arithmetic, half the compile time; the whole-prompt tests run at the full level.
    compiler_options={"xla_backend_optimization_level": 0},
)
def step(params, config, pages, token_ids, slots, ints):
    """One step of at most BUCKET tokens, as an engine would run it."""
    batch = unpack_batch(LAYOUT, ints)

    def attend(pages, layer, q, k, v, **options):
        pages = write_pages(pages, layer, k, v, slots)
        out, _ = paged_attention(q, pages, layer, batch, **options)
        return pages, out

    hidden, pages = forward(params, config, token_ids, batch.token_positions, attend, pages)
    return compute_logits(params, config, hidden), pages


class Sequences:
    """A tiny engine: sequences with page tables over one pool, advanced by chunks."""

    def __init__(self, model):
        self.model = model
        c = model.config
        self.pages = allocate_pages(
            num_layers=c.num_layers,
            num_pages=NUM_PAGES,
            page_size=PAGE_SIZE,
            num_kv_heads=c.num_kv_heads,
            head_size=c.head_size,
            dtype="float32",
        )
        self.free = list(np.random.default_rng(0).permutation(NUM_PAGES))
        self.tables = [[] for _ in range(NUM_SEQS)]
        self.done = [0] * NUM_SEQS

    def advance(self, chunks):
        """chunks: ids of the next tokens of sequences 0, 1, ...; logits of all of them."""
        ids = np.zeros(BUCKET, np.int32)
        slots = np.full(BUCKET, NUM_PAGES * PAGE_SIZE, np.int32)  # out of range: padding
        row = 0
        for seq, chunk in enumerate(chunks):
            for token in chunk:
                page, offset = divmod(self.done[seq], PAGE_SIZE)
                if page == len(self.tables[seq]):
                    self.tables[seq].append(self.free.pop())
                ids[row], slots[row] = token, self.tables[seq][page] * PAGE_SIZE + offset
                self.done[seq] += 1
                row += 1
        tables = np.zeros((len(chunks), 8), np.int64)
        for seq in range(len(chunks)):
            tables[seq, : len(self.tables[seq])] = self.tables[seq]
        ints = np.empty(LAYOUT.num_ints, np.int32)
        pack_batch(
            LAYOUT,
            [len(chunk) for chunk in chunks],
            self.done[: len(chunks)],
            tables,
            cascade=True,
            out=ints,
        )
        logits, self.pages = step(
            self.model.params, self.model.config, self.pages, ids, slots, ints
        )
        ends = np.cumsum([len(chunk) for chunk in chunks])[:-1]
        return np.split(np.asarray(logits)[:row], ends)

    def share(self, seq, other, num_pages):
        """Sequence `other` starts with the first pages of `seq`, already computed."""
        self.tables[other] = self.tables[seq][:num_pages]
        self.done[other] = num_pages * PAGE_SIZE


def prompt(seed=0, length=LENGTH):
    return np.random.default_rng(seed).integers(0, 97, length, dtype=np.int32)


# What these have of their own does not meet pages: phases are a table by position, and other cases
# have their heads. The whole-prompt test runs them by default.
WHOLE_PROMPTS_SHOW = {
    ("llama", "tied, GQA 4"),
    ("llama", "GQA 1, biases everywhere"),
    ("llama", "rope linear"),
    ("llama", "rope llama3"),
    ("mistral", "no window, head size 48"),
    ("qwen2", "biases, tied"),
    ("qwen2", "rope yarn, mscale"),
    ("gemma2", "no soft caps, head size 20"),
}


@pytest.fixture(
    params=[
        pytest.param(case, id=": ".join(case),
                     marks=[pytest.mark.slow] if case in WHOLE_PROMPTS_SHOW else [])
        for case in PARITY_CASES
    ]
)  # fmt: skip
def parity_case(request):
    """(family, case)."""
    return request.param


@pytest.fixture
def served(parity_case, random_model, oracle):
    folder, reference = random_model(*parity_case)
    return load_hf(folder), functools.partial(oracle, reference)


def test_chunks_tokens_and_reused_prefixes_give_the_logits_of_transformers(served):
    model, expect = served
    sequences = Sequences(model)
    first, second = prompt(0), prompt(1)
    second[: 2 * PAGE_SIZE] = first[: 2 * PAGE_SIZE]  # two pages in common
    third = prompt(2)
    rows = [[], [], []]

    def advance(*chunks):
        for row, logits in zip(rows, sequences.advance(chunks), strict=False):
            row.extend(logits)

    advance(first[:7])
    advance(first[7:13], [], third[:9])  # chunked prefill of two sequences
    sequences.share(0, 1, 2)
    rows[1].extend(rows[0][: 2 * PAGE_SIZE])
    advance(first[13:16], second[8:17], third[9:12])  # a chunk behind a reused prefix
    for index in range(4):  # token by token, in company
        at = (16 + index, 17 + index, 12 + index)
        advance(*([ids[i]] for ids, i in zip((first, second, third), at, strict=True)))
    for row, ids in zip(rows, (first, second, third), strict=True):
        found = np.stack(row)
        np.testing.assert_allclose(found, expect(ids[: len(found)]), atol=1e-4)


@pytest.fixture(scope="module")
def windowed(request, random_model, oracle):
    """A model with windows on some layers: the one most sensitive to where chunks end."""
    folder, reference = random_model("gemma3_text", "two ropes, windows")
    return load_hf(folder), oracle(reference, prompt())


@hypothesis.given(st.lists(st.integers(1, BUCKET), min_size=LENGTH))
@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
def test_any_chunking_gives_the_same_logits(windowed, sizes):
    model, expected = windowed
    sequences, ids, found = Sequences(model), prompt(), []
    for size in sizes:
        chunk, ids = ids[:size], ids[size:]
        if len(chunk):
            found.extend(sequences.advance([chunk])[0])
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-4)
