"""The host's work list: every visible pair in exactly one piece, groups only where due."""

import dataclasses
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from helium_jax.kernels.attention import (
    Target,
    make_layout,
    pack_batch,
    paged_attention,
    unpack_batch,
)
from helium_jax.kernels.attention.cascade import CascadeCosts, find_prefix_groups
from helium_jax.kernels.attention.cases import make_pages
from helium_jax.kernels.attention.items import cut_pieces
from helium_jax.kernels.attention.pack import CASCADE_COSTS

FREE = CascadeCosts(block=0.0, page=0.0, row=0.0)
PAGE_SIZE, NUM_SEQS, COLUMNS, NUM_TOKENS, NUM_PAGES = 4, 6, 7, 24, 64
LAYOUT = make_layout(
    num_tokens=NUM_TOKENS,
    num_seqs=NUM_SEQS,
    pages_per_seq=COLUMNS,
    page_size=PAGE_SIZE,
    num_pages=NUM_PAGES,
    block_rows=3,
    run_pages=2,
    unit_pages=5,
)


@dataclasses.dataclass(frozen=True)
class Batch:
    query_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    tables: np.ndarray


@st.composite
def batches(draw):
    """Sequences on a random prefix tree: each takes leading pages of an earlier one, or none."""
    query_lens, kv_lens, rows = [], [], []
    free = iter(draw(st.permutations(range(NUM_PAGES))))
    for s in range(draw(st.integers(0, NUM_SEQS))):
        room = NUM_TOKENS - sum(query_lens)
        new = draw(st.one_of(st.just(1), st.integers(0, 9)).map(lambda n, room=room: min(n, room)))
        old = draw(st.integers(0, COLUMNS * PAGE_SIZE - new))
        count = -(-(old + new) // PAGE_SIZE)
        shared = 0
        if s:
            other = draw(st.integers(0, s - 1))
            whole = min(kv_lens[other] - query_lens[other], old) // PAGE_SIZE
            shared = draw(st.sampled_from([0, whole, whole // 2]))
        row = [-99] * COLUMNS
        row[:shared] = rows[other][:shared] if shared else []
        for column in range(shared, count):
            row[column] = next(free)
        query_lens.append(new)
        kv_lens.append(old + new)
        rows.append(row)
    tables = np.array(rows, np.int64).reshape(len(rows), COLUMNS)
    return Batch(tuple(query_lens), tuple(kv_lens), tables)


def unpack(batch, layout=LAYOUT, **options):
    ints = np.full(layout.num_ints, -7, np.int32)
    pack_batch(layout, batch.query_lens, batch.kv_lens, batch.tables, out=ints, **options)
    return ints, unpack_batch(layout, ints)


def count_pairs(packed, *, windowed):
    """How often the pieces hold (row, page id, offset) with a key not in the row's future."""
    counts = np.zeros((NUM_TOKENS + 1, NUM_PAGES, PAGE_SIZE), int)
    positions = np.append(np.where(packed.token_seqs < 0, -1, packed.token_positions), -1)

    def add(row, seq, column):
        offsets = np.arange(PAGE_SIZE)
        seen = offsets[column * PAGE_SIZE + offsets <= positions[row]]
        counts[row, packed.page_tables[seq, column], seen] += 1

    for seq in range(NUM_SEQS):
        start = 0 if windowed else packed.unit_starts[seq]
        for column in range(start, packed.unit_ends[seq]):
            add(packed.unit_rows[seq], seq, column)
    for block in range(packed.block_counts[0 if windowed else 1]):
        start = 0 if windowed else packed.block_starts[block]
        for column in range(start, packed.block_ends[block]):
            for row in packed.block_rows[block]:
                add(row, packed.block_seqs[block], column)
    assert not counts[NUM_TOKENS].any()
    return counts[:NUM_TOKENS]


def visible_pairs(batch):
    counts = np.zeros((NUM_TOKENS, NUM_PAGES, PAGE_SIZE), int)
    row = 0
    for s, (new, length) in enumerate(zip(batch.query_lens, batch.kv_lens, strict=True)):
        for position in range(length - new, length):
            keys = np.arange(position + 1)
            counts[row, batch.tables[s, keys // PAGE_SIZE], keys % PAGE_SIZE] += 1
            row += 1
    return counts


@given(batches(), st.sampled_from([None, FREE, CASCADE_COSTS]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_visible_pair_is_in_exactly_one_piece(batch, costs, deterministic):
    if deterministic:
        layout = dataclasses.replace(LAYOUT, deterministic=True)
        _, packed = unpack(batch, layout, cascade=False)
    else:
        _, packed = unpack(batch, cascade=costs is not None, costs=costs or FREE)
    expected = visible_pairs(batch)
    np.testing.assert_array_equal(count_pairs(packed, windowed=False), expected)
    np.testing.assert_array_equal(count_pairs(packed, windowed=True), expected)


TPU = make_layout(
    num_tokens=NUM_TOKENS, num_seqs=NUM_SEQS, pages_per_seq=COLUMNS, page_size=PAGE_SIZE,
    num_pages=NUM_PAGES, block_rows=2,
    target=Target(implementation="mosaic_tpu", num_heads=4, num_kv_heads=2),
)  # fmt: skip
GPU = make_layout(
    num_tokens=NUM_TOKENS, num_seqs=NUM_SEQS, pages_per_seq=COLUMNS, page_size=PAGE_SIZE,
    num_pages=NUM_PAGES, block_rows=4,
    target=Target(implementation="mosaic_gpu", num_heads=4, num_kv_heads=2, num_cores=5),
)  # fmt: skip


def pieces_of(packed, kind):
    """(number, piece, first column, column after the last) of every item of one kind."""
    layout = packed.layout
    if layout.num_workers:
        items = getattr(packed, f"{kind}_items")
        starts = getattr(packed, f"{kind}_workers")
        assert starts[0] == 0
        assert (np.diff(starts) >= 0).all()
        return [(i, *items[:, i].tolist()) for i in range(starts[-1])]
    starts, ends = getattr(packed, f"{kind}_starts"), getattr(packed, f"{kind}_ends")
    count = layout.num_seqs if kind == "unit" else packed.block_counts[1]
    return [(i, i, starts[i], ends[i]) for i in range(count) if ends[i] > starts[i]]


@given(batches(), st.booleans(), st.sampled_from([TPU, GPU]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_visible_pair_is_in_exactly_one_named_item(batch, cascade, layout, deterministic):
    """What `row_parts` names is what a row sees: each (row, key) pair once, and nothing twice."""
    if deterministic:
        layout = dataclasses.replace(layout, deterministic=True, max_splits=1)
    cascade = cascade and not deterministic
    _, packed = unpack(batch, layout, cascade=cascade, costs=FREE)
    named = {}
    for number, seq, start, end in pieces_of(packed, "unit"):
        named[number] = (packed.unit_rows[seq], seq, start, end)
    for number, block, start, end in pieces_of(packed, "block"):
        for r, row in enumerate(packed.block_rows[block]):
            part = layout.max_unit_items + number * layout.block_rows + r
            named[part] = (row, packed.block_seqs[block], start, end)

    counts = np.zeros((NUM_TOKENS, NUM_PAGES, PAGE_SIZE), int)
    for row, parts in enumerate(packed.row_parts):
        parts = parts[parts >= 0]
        assert len(set(parts.tolist())) == len(parts)
        for part in parts.tolist():
            of_row, seq, start, end = named[part]
            assert of_row == row
            for column in range(start, end):
                keys = column * PAGE_SIZE + np.arange(PAGE_SIZE)
                seen = np.flatnonzero(keys <= packed.token_positions[row])
                counts[row, packed.page_tables[seq, column], seen] += 1
    np.testing.assert_array_equal(counts, visible_pairs(batch))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), max_size=12), st.integers(2, 9))
@settings(max_examples=200, deadline=None)
def test_workers_share_pages_equally_and_pieces_are_cut_into_few_items(pieces, max_splits):
    layout = dataclasses.replace(GPU, max_splits=max_splits)
    starts = np.array([start for start, _ in pieces], np.int32)
    lengths = np.array([length for _, length in pieces], np.int32)
    numbers = np.arange(len(pieces), dtype=np.int32)
    items, workers = cut_pieces(numbers, starts, starts + lengths, layout)
    total, longest = int(lengths.sum()), int(lengths.max(initial=0))
    fair = max(-(-total // layout.num_workers), -(-longest // (max_splits - 1)))
    shares = [(items[2] - items[1])[a:b].sum() for a, b in itertools.pairwise(workers)]
    assert sum(shares) == total
    assert max(shares) <= fair
    assert np.bincount(items[0], minlength=1).max(initial=0) <= max_splits
    assert items.shape[1] <= len(pieces) + layout.num_workers


@pytest.fixture(scope="module")
def attend():
    """(batch, cascade) -> output and log-sum-exp on one random pool; one program for all."""
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((2, 1, NUM_PAGES, PAGE_SIZE, 2, 8)).astype(np.float32)
    pages = make_pages(pool[0], pool[1], "float32")
    q = jnp.asarray(rng.standard_normal((NUM_TOKENS, 4, 8)), jnp.float32)

    @jax.jit
    def step(ints):
        return paged_attention(q, pages, 0, unpack_batch(LAYOUT, ints), scale=0.3)

    def run(batch, *, cascade):
        ints, _ = unpack(batch, cascade=cascade, costs=FREE)
        return jax.device_get(step(ints))

    return run


@given(batch=batches())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_prefix_groups_change_nothing_on_random_trees(attend, batch):
    for flat, grouped in zip(
        attend(batch, cascade=False), attend(batch, cascade=True), strict=True
    ):
        np.testing.assert_allclose(grouped, flat, atol=2e-6, rtol=2e-6)


def tables_of(*rows):
    width = max(map(len, rows))
    return np.array([list(row) + [0] * (width - len(row)) for row in rows])


def groups_of(tables, shareable=None, pays=lambda _: True):
    shareable = [tables.shape[1]] * len(tables) if shareable is None else shareable
    found = find_prefix_groups(tables, np.array(shareable), pays)
    return {(group.members, group.start, group.end) for group in found}


def test_nested_prefixes_become_nested_groups():
    tables = tables_of([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 7], [8, 9, 9, 9], [1, 2, 3, 5])
    assert groups_of(tables) == {((0, 1, 2, 4), 0, 2), ((0, 1, 4), 2, 3), ((1, 4), 3, 4)}


def test_a_prefix_that_does_not_pay_is_left_to_its_subgroups():
    tables = tables_of([1, 2, 3], [1, 2, 4], [1, 5, 6], [1, 5, 7])
    found = groups_of(tables, pays=lambda group: group.end - group.start > 1)
    assert found == {((0, 1), 0, 2), ((2, 3), 0, 2)}


def test_equal_pages_behind_a_difference_are_not_shared():
    assert groups_of(tables_of([1, 2, 3], [4, 2, 3])) == set()


def test_only_whole_pages_before_the_first_query_row_are_shared():
    tables = tables_of([1, 2, 3], [1, 2, 3], [1, 2, 3])
    assert groups_of(tables, [3, 2, 0]) == {((0, 1), 0, 2)}


def test_one_sequence_alone_is_no_group():
    assert groups_of(tables_of([1, 2, 3])) == set()


def test_two_short_sequences_are_read_alone_and_many_long_ones_together():
    def block_counts(num_seqs, num_pages):
        layout = make_layout(
            num_tokens=32, num_seqs=32, pages_per_seq=64, page_size=32, num_pages=4096
        )
        tables = 100 + np.arange(num_seqs * 64).reshape(num_seqs, 64)
        tables[:, :num_pages] = np.arange(num_pages)
        lens = [num_pages * 32 + 5] * num_seqs
        _, packed = unpack(Batch((1,) * num_seqs, tuple(lens), tables), layout, cascade=True)
        return packed.block_counts.tolist()

    assert block_counts(2, 1) == [0, 0]
    assert block_counts(32, 32) == [0, 1]


def test_kernels_read_shared_pages_together_from_five_pages_on():
    def block_counts(num_pages):
        layout = make_layout(
            num_tokens=2, num_seqs=2, pages_per_seq=64, page_size=64, num_pages=4096,
            target=Target(implementation="mosaic_gpu", num_heads=32, num_kv_heads=8),
        )  # fmt: skip
        tables = 100 + np.arange(2 * 64).reshape(2, 64)
        tables[:, :num_pages] = np.arange(num_pages)
        lens = (num_pages * 64 + 5,) * 2
        _, packed = unpack(Batch((1, 1), lens, tables), layout, cascade=True)
        return packed.block_counts.tolist()

    assert block_counts(4) == [0, 0]
    assert block_counts(5) == [0, 1]


def test_groups_never_outgrow_the_list():
    layout = dataclasses.replace(LAYOUT, block_rows=24)
    batch = Batch((1,) * 6, (28,) * 6, tables_of(*[[*range(6 - s), *range(9 * s + 9, 9 * s + 16)]
                                                   for s in range(6)])[:, :7])  # fmt: skip
    _, packed = unpack(batch, layout, cascade=True, costs=FREE)
    assert packed.block_counts[1] <= layout.max_blocks


@pytest.mark.parametrize(
    ("query_lens", "kv_lens", "pages", "message"),
    [
        ((3,), (2,), [[1]], "sequence 0: query_len=3 must lie between 0 and kv_len=2"),
        ((1, 1), (4, 99), [[1] * 7] * 2, "sequence 1: kv_len=99 needs 25 pages"),
        ((1,), (8,), [[1]], "its table has 1, the layout 7"),
        ((1,), (8,), [[1, 64]], "sequence 0: page 64 in column 1 is not one of"),
        ((1,), (8,), [[-1, 6]], "sequence 0: page -1 in column 0"),
        ((20, 20), (20, 20), [[1] * 7] * 2, "exceeds the layout's layout.num_tokens=24"),
        ((1,) * 7, (1,) * 7, [[1]] * 7, "num_seqs=7 exceeds the layout's layout.num_seqs=6"),
        ((1, 1), (1,), [[1]] * 2, "must both be"),
        ((1,), (1,), [[1]] * 2, "page_tables.shape"),
    ],
)
def test_names_what_does_not_fit(query_lens, kv_lens, pages, message):
    with pytest.raises(ValueError, match=message):
        unpack(Batch(query_lens, kv_lens, np.array(pages)), cascade=False)


@pytest.mark.parametrize("name", ["query_lens", "kv_lens", "page_tables"])
def test_names_what_is_no_integer(name):
    arguments = dict(query_lens=[1], kv_lens=[4], page_tables=[[1]])
    arguments[name] = np.asarray(arguments[name], np.float64)
    out = np.empty(LAYOUT.num_ints, np.int32)
    with pytest.raises(ValueError, match=f"{name} is in float64; expected integers"):
        pack_batch(LAYOUT, **arguments, cascade=False, out=out)
    with pytest.raises(ValueError, match=r"out is int64\(1,\); expected int32"):
        pack_batch(LAYOUT, [1], [4], np.array([[1]]), cascade=False, out=np.zeros(1, np.int64))


def test_refuses_groups_in_a_deterministic_layout():
    layout = dataclasses.replace(LAYOUT, deterministic=True)
    with pytest.raises(ValueError, match="cascade=True is impossible"):
        unpack(Batch((), (), np.zeros((0, 0), int)), layout, cascade=True)
