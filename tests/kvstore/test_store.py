"""The store by example: sharing, copies, pins, counters."""

import pytest

from helium_jax.errors import InternalError, RequestError
from helium_jax.kvstore.hints import HINT_TURNOVERS
from helium_jax.kvstore.prefix_index import BlockKey
from helium_jax.kvstore.store import Store
from helium_jax.types import CacheSnapshot, PlannedUse

SECRET = bytes(32)


def make(num_pages=8, **choices):
    return Store(page_size=4, num_pages=num_pages, secret=SECRET, **choices)


def write(store, token_ids, *, salt="", next_use=None):
    """A table that has all of `token_ids` computed, sharing what is there."""
    table = store.open_table(salt=salt, next_use=next_use)
    store.extend_keys(table, token_ids)
    store.attach(table, (len(token_ids) - 1) // 4)
    store.append(table, -(-len(token_ids) // 4) - len(table.pages))
    store.commit(table, len(token_ids))
    store.verify()
    return table


def num_matched(store, token_ids, *, salt=""):
    table = store.open_table(salt=salt)
    store.extend_keys(table, token_ids)
    return len(store.match(table, len(token_ids) // 4))


def test_equal_prefixes_share_pages_and_different_tokens_do_not():
    store = make()
    first = write(store, range(10))
    second = write(store, [*range(8), 99, 98])
    third = write(store, [99, *range(1, 8)])
    assert first.pages[:2] == second.pages[:2]
    assert len({*first.pages, *second.pages, *third.pages}) == 6
    assert store.snapshot() == CacheSnapshot(
        page_size=4, num_pages=8, num_free=2, num_cached=0, num_used=6
    )


def test_a_block_matches_only_behind_the_same_tokens():
    store = make()
    write(store, [1, 1, 1, 1, 2, 2, 2, 2])
    assert num_matched(store, [1, 1, 1, 1, 2, 2, 2, 2]) == 2
    assert num_matched(store, [2, 2, 2, 2]) == 0
    assert num_matched(store, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2]) == 1


def test_salts_model_versions_and_secrets_separate_digests():
    tables = [
        store.open_table(salt=salt)
        for store in (make(), make(model_version="b"))
        for salt in ("", "a", "b")
    ] + [Store(page_size=4, num_pages=1, secret=b"other").open_table()]
    assert len({table.root for table in tables}) == len(tables)
    store = make()
    write(store, range(4), salt="a")
    assert num_matched(store, range(4), salt="a") == 1
    assert num_matched(store, range(4)) == 0


def test_equal_hashes_of_unequal_tokens_neither_match_nor_mix():
    store = make()
    first = write(store, range(8))
    forged = store.open_table()
    forged.keys.append(BlockKey(first.keys[0].digest, bytes(16)))
    assert store.match(forged, 1) == []
    store.append(forged, 1)
    store.commit(forged, 4)
    assert forged.blocks == []
    store.release(forged)
    store.verify()
    assert num_matched(store, range(8)) == 2


def test_released_blocks_stay_and_partial_pages_are_freed():
    store = make()
    store.release(write(store, range(10)))
    assert (store.snapshot().num_cached, store.snapshot().num_free) == (2, 6)
    assert num_matched(store, range(10)) == 2


def test_without_prefix_caching_nothing_stays():
    store = make(prefix_caching=False)
    store.release(write(store, range(10)))
    assert store.snapshot().num_free == 8


def test_two_that_compute_a_block_at_once_end_with_one_page():
    store = make()
    first, second = (store.open_table() for _ in range(2))
    for table in (first, second):
        store.extend_keys(table, range(8))
        store.append(table, 2)
        store.commit(table, 8)
    store.verify()
    # Both pages are written by the step being planned, so both are still needed.
    assert set(first.pages).isdisjoint(second.pages)
    store.commit(second, 8)
    store.verify()
    assert first.pages == second.pages
    store.release(first)
    assert store.snapshot().num_used == 2
    assert num_matched(store, range(8)) == 2


def test_a_block_that_nobody_reads_moves_to_the_page_computed_anew():
    store = make()
    old = write(store, range(8))
    old_pages = [*old.pages]
    store.release(old)
    new = write(store, range(8))
    assert new.pages[0] == old_pages[0]
    assert new.pages[1] != old_pages[1]
    assert (store.snapshot().num_used, store.snapshot().num_cached) == (2, 0)


def test_eviction_takes_the_oldest_and_suffixes_before_prefixes():
    store = make(num_pages=6)
    store.release(write(store, range(12)))
    store.release(write(store, range(100, 112)))
    grown = store.open_table()
    store.append(grown, 2)
    store.verify()
    assert num_matched(store, range(12)) == 1
    assert num_matched(store, range(100, 112)) == 3
    store.append(grown, 2)
    assert num_matched(store, range(12)) == 0
    assert num_matched(store, range(100, 112)) == 2
    assert store.snapshot().evicted_pages == 4


def test_eviction_spares_what_the_plan_needs_soonest():
    store = make(num_pages=3)
    store.release(write(store, [1] * 4, next_use=5))
    store.release(write(store, [2] * 4, next_use=9))
    store.release(write(store, [3] * 4))
    evicted = []
    table = store.open_table()
    for _ in range(3):
        store.append(table, 1)
        evicted.append([num_matched(store, [token] * 4) for token in (1, 2, 3)])
    assert evicted == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_append_beyond_what_is_available_changes_nothing():
    store = make(num_pages=3)
    table = write(store, range(8))
    with pytest.raises(InternalError, match="num_pages=2 were asked for and 1 can be had"):
        store.append(table, 2)
    store.verify()
    assert len(table.pages) == 2


def test_pins_outlive_pressure_until_given_back():
    store = make(num_pages=4, pin_pages=2)
    table = write(store, range(12))
    pinned = store.pin(table)
    assert pinned.num_blocks == 2  # in part: the budget is spent
    store.release(table)
    store.verify()
    assert store.num_available == 2
    full = store.open_table()
    store.append(full, 2)
    assert num_matched(store, range(12)) == 2
    assert store.snapshot().num_pinned == 2
    store.release(full)
    store.reset()
    assert num_matched(store, range(12)) == 2
    assert pinned.pin_id is not None
    store.unpin(pinned.pin_id)
    store.verify()
    assert store.num_available == 4
    assert store.reset() == 2


def test_a_block_pinned_twice_needs_both_given_back_and_costs_once():
    store = make(num_pages=4, pin_pages=1)
    store.release(table := write(store, range(4)))
    pins = [store.pin(table).pin_id for _ in range(2)]
    assert store.snapshot().num_pinned == 1
    store.unpin(pins[0])
    store.verify()
    assert store.num_available == 3
    store.unpin(pins[1])
    store.verify()
    assert store.num_available == 4


def test_nothing_resident_cannot_be_pinned_and_a_pin_goes_once():
    store = make(pin_pages=4)
    table = store.open_table()
    store.extend_keys(table, range(8))
    assert store.pin(table).pin_id is None
    pin_id = store.pin(write(store, range(8))).pin_id
    assert pin_id is not None
    store.unpin(pin_id)
    with pytest.raises(RequestError, match=f"pin_id={pin_id} is not pinned"):
        store.unpin(pin_id)


def test_reset_spares_what_is_being_read():
    store = make()
    reader = write(store, range(8))
    store.release(write(store, [*range(8), 9, 9, 9, 9]))
    assert store.reset() == 1
    store.verify()
    assert num_matched(store, range(8)) == 2
    store.release(reader)
    assert store.reset() == 2
    assert store.snapshot().num_free == 8


def test_computing_an_evicted_block_again_is_regretted_once():
    store = make(num_pages=2)
    store.release(write(store, range(8)))
    store.release(write(store, range(50, 58)))
    assert store.snapshot().evicted_then_needed_tokens == 0
    store.release(write(store, range(8)))
    assert store.snapshot().evicted_then_needed_tokens == 8
    store.reset()
    store.release(write(store, range(50, 58)))
    assert store.snapshot().evicted_then_needed_tokens == 8


def test_regret_remembers_a_bounded_number_of_blocks():
    store = make(num_pages=4, num_remembered=1)
    store.release(write(store, range(8)))
    # Forgotten at once, so that nothing more is evicted below.
    store.release(write(store, range(50, 66)), is_damaged=True)
    assert store.snapshot().evicted_pages == 2
    store.release(write(store, range(8)))
    assert store.snapshot().evicted_then_needed_tokens == 4  # the one evicted last


def test_blocks_of_a_damaged_sequence_are_forgotten_unless_somebody_reads_them():
    store = make()
    reader = write(store, range(8))
    damaged = write(store, [*range(8), 9, 9, 9, 9])
    store.release(damaged, is_damaged=True)
    store.verify()
    assert num_matched(store, [*range(8), 9, 9, 9, 9]) == 2
    store.release(reader, is_damaged=True)
    store.verify()
    assert store.snapshot().num_free == 8


def test_a_trial_agrees_with_what_then_happens():
    store = make(num_pages=8, pin_pages=1)
    idle = write(store, range(12))
    store.pin(idle)
    store.release(idle)
    running = write(store, [*range(4), 7, 7, 7, 7, 7])
    copying = store.open_table()
    store.extend_keys(copying, [*range(4), 7, 7, 7, 7])
    store.attach(copying, 1)
    store.append(copying, 1)
    store.commit(copying, 8)
    assert copying.copies == [1]
    trial = store.trial()
    follower = store.open_table()
    store.extend_keys(follower, range(12))
    trial.release(copying)
    trial.release(running)
    assert trial.num_available == 7
    matched = store.match(follower, 2)
    assert [trial.count_idle(matched, is_pinned=pinned) for pinned in (False, True)] == [1, 1]
    trial.attach(matched)
    trial.take(1)
    assert trial.num_surrenderable == 0
    store.release(copying)
    store.release(running)
    store.attach(follower, 2)
    store.append(follower, 1)
    assert trial.num_available == store.num_available == 5
    store.verify()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda store, table: table.pages.append(0), "is shared"),
        (lambda store, table: store._pool._free.append(table.pages[0]), "2 places"),
        (lambda store, table: store._pool._free.pop(), "0 places"),
        (lambda store, table: store._tables.discard(table), "references"),
        (lambda store, table: setattr(table.blocks[0], "num_children", 5), "children"),
        (lambda store, table: setattr(table.blocks[0], "num_pins", 1), "pins"),
        (lambda store, table: store._policy.add(table.blocks[1]), "eviction order"),
        (lambda store, table: setattr(store, "_num_cached", 1), "cached"),
        (lambda store, table: table.copies.append(0), "copies"),
    ],
)
def test_verify_sees_damage(damage, problem):
    store = make()
    table = write(store, range(10))
    damage(store, table)
    with pytest.raises(InternalError, match=f"inconsistent.*{problem}"):
        store.verify()


def make_pinned(store, token, *, value):
    """An idle pinned prefix of one block."""
    store.release(table := write(store, [token] * 4))
    pinned = store.pin(table, value=value)
    assert pinned.pin_id is not None
    return pinned.pin_id


def test_5_10_the_least_valuable_pin_goes_when_nothing_else_is_left():
    store = make(num_pages=4, pin_pages=3)
    pins = [make_pinned(store, token, value=value) for token, value in ((1, 5), (2, 1), (3, 9))]
    table = store.open_table()
    store.append(table, 1)
    assert store.snapshot().surrendered_pins == 0
    store.append(table, 1)
    store.verify()
    assert [num_matched(store, [token] * 4) for token in (1, 2, 3)] == [1, 0, 1]
    assert store.snapshot().surrendered_pins == 1
    for pin_id in pins:  # giving back what was taken is no error
        store.unpin(pin_id)
    store.verify()
    assert store.num_available == 2


def test_5_10_with_every_page_pinned_all_of_them_can_still_be_had():
    store = make(num_pages=4, pin_pages=4)
    for token in range(4):
        make_pinned(store, token, value=token)
    assert (store.num_available, store.num_surrenderable) == (0, 4)
    table = store.open_table()
    store.append(table, 4)
    store.verify()
    assert store.snapshot().surrendered_pins == 4
    store.release(table)
    assert store.snapshot().num_free == 4


def test_a_pin_that_is_being_read_is_not_given_up_for_nothing():
    store = make(num_pages=4, pin_pages=4)
    reader = write(store, [1] * 4)
    store.pin(reader, value=1)
    make_pinned(store, 2, value=7)
    store.append(store.open_table(), 3)
    assert num_matched(store, [2] * 4) == 0
    store.release(reader)
    assert store.num_surrenderable == 1
    store.verify()


def test_a_better_pin_displaces_a_lesser_one_when_the_budget_is_spent():
    store = make(pin_pages=2)
    lesser = make_pinned(store, 1, value=1)
    make_pinned(store, 2, value=3)
    store.release(table := write(store, [3] * 4))
    assert store.pin(table, value=1).pin_id is None  # equals stay
    assert store.pin(table, value=2).num_blocks == 1
    store.verify()
    assert store.snapshot().surrendered_pins == 1
    assert num_matched(store, [1] * 4) == 1  # it lost its pin, not its place
    store.unpin(lesser)


def evict_one_by_one(store, tokens):
    """Which of the prefixes of one block are there before each eviction until none is."""
    table = store.open_table()
    store.append(table, store.snapshot().num_free)
    order = []
    while any(num_matched(store, [token] * 4) for token in tokens):
        before = [token for token in tokens if num_matched(store, [token] * 4)]
        store.append(table, 1)
        order += [token for token in before if not num_matched(store, [token] * 4)]
    return order


def test_what_is_foreseen_places_idle_blocks_anew():
    store = make(num_pages=4)
    for token, next_use in ((1, 1), (2, 2), (3, None), (4, 3)):
        store.release(write(store, [token] * 4, next_use=next_use))
    store.foresee(
        [
            PlannedUse(token_ids=(3,) * 4, next_use=0),
            PlannedUse(token_ids=(1,) * 4, next_use=None),
            PlannedUse(token_ids=(9,) * 4, next_use=5),  # not resident
        ]
    )
    store.verify()
    assert evict_one_by_one(store, (1, 2, 3, 4)) == [1, 4, 2, 3]


def test_a_block_that_several_foreseen_prefixes_cover_gets_the_nearest_use():
    store = make(num_pages=3)
    store.release(write(store, [1] * 12))
    store.foresee(
        [
            PlannedUse(token_ids=(1,) * 12, next_use=1),
            PlannedUse(token_ids=(1,) * 4, next_use=2),
            PlannedUse(token_ids=(1,) * 12),
            PlannedUse(token_ids=(1,) * 8, next_use=6),
        ]
    )
    assert [block.next_use for block in store.match(write(store, [1] * 12), 3)] == [2, 6, None]


def test_a_reader_without_a_plan_leaves_what_a_plan_said():
    store = make()
    store.release(write(store, [1] * 8, next_use=4))
    store.release(write(store, [1] * 8))
    store.release(later := write(store, [1] * 8, next_use=9))  # what was foreseen has come
    store.extend_keys(later, [1] * 8)
    assert [block.next_use for block in store.match(later, 2)] == [9, 9]


def test_the_nearest_of_several_readers_counts():
    store = make()
    readers = [write(store, [1] * 8, next_use=next_use) for next_use in (7, 3, 5)]
    for reader in readers:
        store.release(reader)
    assert [block.next_use for block in store.match(readers[0], 2)] == [3, 3]


def test_hints_of_somebody_who_went_without_a_word_expire():
    store = make(num_pages=4)
    store.release(forgotten := write(store, [1] * 4, next_use=0))
    store.release(renewed := write(store, [2] * 4, next_use=1))
    for token in range(10, 10 + 3 * HINT_TURNOVERS * 4):
        store.release(write(store, [token] * 4))
        store.foresee([PlannedUse(token_ids=(2,) * 4, next_use=1)])
    store.verify()
    assert (len(store.match(forgotten, 1)), len(store.match(renewed, 1))) == (0, 1)
