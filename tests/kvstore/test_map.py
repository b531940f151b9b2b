"""The picture of a store: a letter per page, and the prefix tree as stretches of pages."""

from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.kvstore.map import draw_cells, draw_prefixes
from helium_jax.kvstore.store import Store

PAGE = 4
SECRET = b"s" * 32


def make_store(num_pages=16, **kwargs):
    return Store(page_size=PAGE, num_pages=num_pages, secret=SECRET, **kwargs)


def hold(store, token_ids, salt=""):
    """A sequence that has computed these tokens and still reads them."""
    table = store.open_table(salt=salt)
    store.extend_keys(table, token_ids)
    found = store.attach(table, len(token_ids) // PAGE)
    store.append(table, -(-len(token_ids) // PAGE) - found)
    store.commit(table, len(token_ids))
    return table


def tree(cache_map):
    """(parent, pages, pages behind, first token) of each stretch."""
    return [
        (one.parent, one.num_pages, one.num_below, one.token_ids[:1]) for one in cache_map.prefixes
    ]


def test_every_page_has_the_letter_of_its_readers():
    store = make_store(num_pages=8, pin_pages=8)
    common = [1] * 4
    first = hold(store, [*common, 2, 2, 2, 2, 3])  # two blocks and a page of its own
    second = hold(store, [*common, 4])
    third = hold(store, [7] * 8)
    store.pin(third)
    store.release(third)
    letters = store.map(None).cells
    assert letters[first.pages[0]] == "s"
    assert [letters[page] for page in (*first.pages[1:], second.pages[1])] == ["p"] * 3
    assert sorted(letters) == sorted("sppp" + "CC" + "ff")
    store.pin(first)
    assert store.map(None).cells[first.pages[0]] == "S"


def test_prompts_part_where_their_pages_do():
    store = make_store()
    hold(store, [*[1] * 8, *[2] * 4])
    hold(store, [*[1] * 8, *[3] * 8])
    store.release(hold(store, [9] * 4))
    drawn = store.map(None)
    assert tree(drawn) == [
        (None, 2, 3, (1,)),
        (0, 2, 0, (3,)),
        (None, 1, 0, (9,)),
        (0, 1, 0, (2,)),
    ]
    assert [one.num_readers for one in drawn.prefixes] == [2, 1, 0, 1]


def test_tokens_are_told_under_the_salts_of_the_asker_only():
    store = make_store()
    hold(store, [*[1] * 8, 2], salt="mine")
    hold(store, [1] * 4, salt="theirs")
    assert [one.token_ids for one in store.map({"mine"}).prefixes] == [(1,) * 8, ()]
    assert [one.token_ids for one in store.map(()).prefixes] == [(), ()]
    assert [one.token_ids for one in store.map(None).prefixes] == [(1,) * 8, (1,) * 4]


def test_what_does_not_fit_is_counted():
    store = make_store()
    for token in range(5):
        hold(store, [token] * 4)
    hold(store, [8] * 12)
    prefixes, num_folded = draw_prefixes(
        store._index, store._pool.references, roots=None, max_prefixes=2
    )
    assert [one.num_pages for one in prefixes] == [3, 1]
    assert num_folded == 4


def test_a_cell_of_several_pages_shows_the_busiest():
    store = make_store(num_pages=16)
    hold(store, [5] * 4)
    size, cells = draw_cells(store._pool, store._index, max_cells=4)
    assert (size, len(cells)) == (4, 4)
    assert sorted(cells) == ["f", "f", "f", "p"]


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=20), max_size=6),
    kept=st.integers(0, 6),
    most=st.integers(1, 8),
)
def test_a_map_accounts_for_every_page(prompts, kept, most):
    store = make_store(num_pages=64)
    tables = [hold(store, prompt) for prompt in prompts]
    for table in tables[kept:]:
        store.release(table)
    store.verify()
    now, drawn = store.snapshot(), store.map(None)
    assert drawn.cells.count("f") == now.num_free
    assert drawn.cells.count("c") == now.num_cached
    assert len(drawn.cells) == now.num_pages
    prefixes, num_folded = draw_prefixes(
        store._index, store._pool.references, roots=None, max_prefixes=most
    )
    assert sum(one.num_pages for one in prefixes) + num_folded == len(store._index)
    for place, one in enumerate(prefixes):
        assert one.parent is None or one.parent < place
    whole = sum(one.num_pages + one.num_below for one in prefixes if one.parent is None)
    assert whole <= len(store._index)
