"""The store under random use, against page contents kept on the side."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helium_jax.kvstore.eviction import HeapPolicy, least_recently_used_order, plan_aware_order
from helium_jax.kvstore.page_table import PageTable
from helium_jax.kvstore.store import Store
from helium_jax.types import PlannedUse

PAGE_SIZE = 2


class StoreMachine(RuleBasedStateMachine):
    """A table's tokens are written page by page as they are committed. `contents` has, for every
    page, the tokens up to its end that its KV was computed from."""

    @initialize(
        num_pages=st.integers(1, 12),
        pin_pages=st.integers(0, 4),
        order=st.sampled_from([plan_aware_order, least_recently_used_order]),
    )
    def start(self, num_pages, pin_pages, order):
        self.store = Store(
            page_size=PAGE_SIZE,
            num_pages=num_pages,
            pin_pages=pin_pages,
            secret=bytes(32),
            policy=HeapPolicy(order),
        )
        self.order = order
        self.open: list[tuple[PageTable, list[int], str]] = []
        self.pins: list[tuple[int, tuple[int, ...], str]] = []
        self.contents: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.counters = (0, 0)

    def matched(self, tokens, salt) -> int:
        table = self.store.open_table(salt=salt)
        self.store.extend_keys(table, tokens)
        blocks = self.store.match(table, len(tokens) // PAGE_SIZE)
        for i, block in enumerate(blocks):
            expected = (salt, tuple(tokens[: (i + 1) * PAGE_SIZE]))
            assert self.contents[block.page] == expected, "a match has other tokens"
        return len(blocks)

    def write(self, table, tokens, salt, first, last):
        for i in range(first, last):
            if i >= len(table.blocks):
                self.contents[table.pages[i]] = (salt, tuple(tokens[: (i + 1) * PAGE_SIZE]))

    @rule(
        tokens=st.lists(st.integers(1, 2), min_size=1, max_size=12),
        salt=st.sampled_from(["", "", "b"]),
        next_use=st.one_of(st.none(), st.integers(0, 3)),
        num_blocks=st.integers(0, 6),
    )
    def open_table(self, tokens, salt, next_use, num_blocks):
        table = self.store.open_table(salt=salt, next_use=next_use)
        self.store.extend_keys(table, tokens)
        resident = self.matched(tokens, salt)
        attached = self.store.attach(table, min(num_blocks, len(table.keys)))
        assert attached == min(num_blocks, len(table.keys), resident)
        need = -(-len(tokens) // PAGE_SIZE) - attached
        available = self.store.num_available
        if need > available + self.store.num_surrenderable:
            self.store.release(table)
            return
        surrendered = self.store.snapshot().surrendered_pins
        self.store.append(table, need)
        assert (self.store.snapshot().surrendered_pins > surrendered) == (need > available)
        self.open.append((table, tokens, salt))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data):
        table, tokens, salt = data.draw(st.sampled_from(self.open))
        num_tokens = data.draw(st.integers(0, len(tokens)))
        self.write(table, tokens, salt, 0, num_tokens // PAGE_SIZE)
        available = self.store.num_available
        self.store.commit(table, num_tokens)
        assert self.store.num_available >= available, "a commit may not take pages"
        assert self.matched(tokens, salt) >= num_tokens // PAGE_SIZE

    @precondition(lambda self: self.open)
    @rule(data=st.data(), is_damaged=st.booleans())
    def release(self, data, is_damaged):
        entry = data.draw(st.sampled_from(self.open))
        self.open.remove(entry)
        table, tokens, salt = entry
        committed = len(table.blocks)
        trial = self.store.trial()
        trial.release(table)
        self.store.release(table, is_damaged=is_damaged)
        assert trial.num_available == self.store.num_available
        if not is_damaged:
            assert self.matched(tokens, salt) >= committed
        assert (table.pages, table.blocks, table.copies) == ([], [], [])

    @rule(
        tokens=st.lists(st.integers(1, 2), max_size=12),
        salt=st.sampled_from(["", "b"]),
        value=st.integers(0, 2),
    )
    def pin(self, tokens, salt, value):
        table = self.store.open_table(salt=salt)
        self.store.extend_keys(table, tokens)
        pinned = self.store.pin(table, value=value)
        if pinned.pin_id is not None:
            covered = tuple(tokens[: pinned.num_blocks * PAGE_SIZE])
            self.pins.append((pinned.pin_id, covered, salt))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data):
        pin = data.draw(st.sampled_from(self.pins))
        self.pins.remove(pin)
        self.store.unpin(pin[0])

    @rule(
        uses=st.lists(
            st.tuples(
                st.lists(st.integers(1, 2), max_size=12),
                st.sampled_from(["", "b"]),
                st.one_of(st.none(), st.integers(0, 3)),
            ),
            max_size=4,
        )
    )
    def foresee(self, uses):
        self.store.foresee(
            PlannedUse(token_ids=tuple(tokens), cache_salt=salt, next_use=next_use)
            for tokens, salt, next_use in uses
        )

    @rule()
    def reset(self):
        self.store.reset()
        assert self.store.num_available == self.store.snapshot().num_free

    @invariant()
    def holds(self):
        if not hasattr(self, "store"):
            return
        self.store.verify()
        for table, tokens, salt in self.open:
            for i in range(len(table.blocks)):
                expected = (salt, tuple(tokens[: (i + 1) * PAGE_SIZE]))
                assert self.contents[table.pages[i]] == expected
                assert self.contents[table.blocks[i].page] == expected
        num_lost = sum(
            self.matched(covered, salt) < len(covered) // PAGE_SIZE
            for _, covered, salt in self.pins
        )
        assert num_lost <= self.store.snapshot().surrendered_pins, "a pin was lost"
        snapshot = self.store.snapshot()
        counters = (snapshot.evicted_pages, snapshot.evicted_then_needed_tokens)
        assert counters >= self.counters
        assert counters[1] <= counters[0] * PAGE_SIZE
        self.counters = counters

    def teardown(self):
        if not hasattr(self, "store"):
            return
        policy = self.store._policy
        while len(policy):  # whatever was foreseen since it was offered
            first = min(
                self.order(block) for block in self.store._index.blocks() if block in policy
            )
            assert self.order(policy.pop()) == first


def test_pages_hold_what_the_index_says_whatever_is_done():
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=150, stateful_step_count=50, deadline=None)
    )
