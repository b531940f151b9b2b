"""What dispatchers are made of: the book, the mirror of a worker's store, and planned uses."""

from collections import OrderedDict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.schedule import CallGraph, CallNode, Segment
from helium_jax.schedule.book import Book
from helium_jax.schedule.dispatch import PrefixUse, ReadyCall
from helium_jax.schedule.output_lengths import OutputLengths
from helium_jax.schedule.planned_uses import PlannedUses
from helium_jax.schedule.resident import Resident, page_hashes
from tests.schedule.scripted import prompt_of

SYSTEM = Segment(key="system", num_tokens=16, is_static=True)
TOPIC = Segment(key="topic", num_tokens=8, is_static=False, group="topic")
QUESTION = Segment(key="question", num_tokens=12, is_static=False)
DRAFT = Segment(key="draft", num_tokens=6, is_static=False)
OWN = Segment(key="", num_tokens=4, is_static=False)


def review_graph(num_rows: int = 2) -> CallGraph:
    """A draft, then a review that goes on where the draft's prompt ended."""
    draft = CallNode(name="draft", segments=(SYSTEM, QUESTION), output_tokens=6, role="r")
    review = CallNode(
        name="review",
        segments=(SYSTEM, QUESTION, DRAFT),
        needs=("draft",),
        output_tokens=6,
        role="r",
    )
    return CallGraph(nodes=(draft, review), num_rows=num_rows)


def rank(operator: str, row: int) -> int:
    return 10 * row + ("draft", "review", "summary").index(operator)


def call_of(graph: CallGraph, operator: str, row: int, call_id: int = 0) -> ReadyCall:
    tokens = prompt_of(graph, graph.by_name[operator], row)
    return ReadyCall(call_id=call_id, operator=operator, row=row, token_ids=tokens)


# --- book -----------------------------------------------------------------------------------


def test_a_row_is_busy_while_a_call_of_it_is_coming_or_in_flight():
    book = Book(1)
    states = []

    def note() -> None:
        states.append((book.is_row_idle(3), book.is_idle))

    book.expect(0, 3)
    note()
    book.add(call_of(review_graph(4), "draft", 3))
    note()
    book.start(0)
    note()
    assert book.end(0) is not None
    note()
    assert book.end(0) is None
    note()
    assert states == [(False, False), (True, True), (False, False), (True, True), (True, True)]


def test_a_call_that_is_dropped_while_coming_blocks_nobody():
    book = Book(1)
    book.expect(0, 0)
    assert book.end(0) is None
    assert book.is_idle
    assert book.is_row_idle(0)


def test_urgent_calls_come_first_then_those_that_came_first():
    book = Book(1)
    for call_id, priority in enumerate((1, 0, 1, 0)):
        book.add(ReadyCall(call_id=call_id, operator="a", row=0, token_ids=(1,), priority=priority))
    assert [call.call_id for call in book.in_order()] == [1, 3, 0, 2]


# --- mirror of a store -------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), max_size=12))
def test_the_mirror_holds_the_pages_used_last(prompts):
    page_size, num_pages = 2, 5
    mirror = Resident(page_size, page_size * num_pages)
    model: OrderedDict[tuple[int, ...], None] = OrderedDict()
    for prompt in prompts:
        pages = [tuple(prompt[:end]) for end in range(page_size, len(prompt) + 1, page_size)]
        expected = 0
        while expected < len(pages) and pages[expected] in model:
            expected += 1
        assert mirror.match(page_hashes(prompt, page_size)) == expected
        for page in reversed(pages):
            model[page] = None
            model.move_to_end(page)
        while len(model) > num_pages:
            model.popitem(last=False)
        mirror.use(page_hashes(prompt, page_size))


def test_equal_pages_behind_different_ones_are_different():
    first, second = page_hashes((1, 2, 9, 9), 2), page_hashes((3, 4, 9, 9), 2)
    assert len(first) == len(second) == 2
    assert first[1] != second[1]
    assert page_hashes((1, 2, 9), 2) == first[:1]


# --- planned uses -------------------------------------------------------------------------------


def test_a_conversation_keeps_its_pages_until_its_next_turn():
    graph = review_graph()
    uses = PlannedUses(graph, rank, patience=1)
    draft, review = call_of(graph, "draft", 1), call_of(graph, "review", 1)
    uses.consume(draft)
    assert uses.at_release(draft) == rank("review", 1)
    assert uses.started(draft) == [
        PrefixUse(token_ids=draft.token_ids, next_use=rank("review", 1)),
        PrefixUse(token_ids=draft.token_ids[:16], next_use=rank("draft", 0)),
    ]
    assert uses.finished(draft) == []
    uses.close("draft", 1)
    uses.consume(review)
    assert uses.at_release(review) is None
    last = {use.token_ids: use.next_use for use in uses.finished(review)}
    assert (
        last
        == {
            review.token_ids: None,  # the draft's answer with it
            review.token_ids[:28]: None,
            review.token_ids[:16]: rank("draft", 0),
        }
    )


def test_a_branch_that_is_not_taken_needs_no_pages():
    graph = review_graph()
    uses = PlannedUses(graph, rank, patience=1)
    draft = call_of(graph, "draft", 0)
    uses.consume(draft)
    uses.close("review", 0)
    assert uses.at_release(draft) is None
    assert uses.started(draft) == [
        PrefixUse(token_ids=draft.token_ids[:16], next_use=rank("draft", 1))
    ]


def test_a_static_prefix_is_given_up_when_its_last_call_is_out():
    graph = review_graph(1)
    uses = PlannedUses(graph, rank, patience=1)
    draft, review = call_of(graph, "draft", 0), call_of(graph, "review", 0)
    uses.consume(draft)
    uses.started(draft)
    assert uses.expired(["draft", "review"]) == []
    uses.consume(review)
    gone = [PrefixUse(token_ids=review.token_ids[:16], next_use=None)]
    assert uses.expired(["draft", "review"]) == gone
    assert uses.expired(["draft", "review"]) == []


def test_an_operator_in_a_loop_needs_its_pages_until_it_is_closed():
    node = CallNode(
        name="draft", segments=(SYSTEM, QUESTION), output_tokens=6, role="r", repeats=3.0
    )
    graph = CallGraph(nodes=(node,), num_rows=1)
    uses = PlannedUses(graph, rank, patience=1)
    call = call_of(graph, "draft", 0)
    uses.consume(call)
    assert uses.started(call)[-1].next_use == rank("draft", 0)
    uses.close("draft", 0)
    assert uses.finished(call)[-1].next_use is None


def test_a_prefix_of_a_row_is_given_up_when_the_call_that_needed_it_will_not_come():
    """Such as one in a branch that was not taken, found out after the call before it ended."""
    graph = review_graph(2)
    uses = PlannedUses(graph, rank, patience=1)
    draft = call_of(graph, "draft", 0)
    uses.consume(draft)
    uses.started(draft)
    assert uses.finished(draft) == []
    uses.close("draft", 0)
    assert uses.expired(["draft"]) == []
    uses.close("review", 0)
    assert uses.expired(["review"]) == [
        PrefixUse(token_ids=draft.token_ids, next_use=None),
        # Row 1 needs what all rows share: the last word on these pages.
        PrefixUse(token_ids=draft.token_ids[:16], next_use=rank("draft", 1)),
    ]
    assert uses.expired(["review"]) == []


def test_a_prefix_of_a_row_is_needed_later_when_a_call_before_will_not_come():
    draft, review = review_graph().nodes
    summary = replace(review, name="summary")
    graph = CallGraph(nodes=(draft, review, summary), num_rows=1)
    uses = PlannedUses(graph, rank, patience=1)
    call = call_of(graph, "draft", 0)
    uses.consume(call)
    uses.started(call)
    uses.close("review", 0)
    later = PrefixUse(token_ids=call.token_ids, next_use=rank("summary", 0))
    assert later in uses.expired(["review"])


def test_a_prompt_computed_early_is_needed_by_its_call_alone():
    graph = CallGraph(
        nodes=(CallNode(name="draft", segments=(OWN,), output_tokens=6, role=""),), num_rows=2
    )
    uses = PlannedUses(graph, rank, patience=1)
    assert uses.expect_early("draft", 1) == rank("draft", 1)
    assert uses.expect_early("other", 1) is None
    calls = [call_of(graph, "draft", row) for row in range(2)]
    told = []
    for call in calls:
        uses.consume(call)
        assert uses.started(call) == []
        told += uses.finished(call)
    assert told == [PrefixUse(token_ids=calls[1].token_ids, next_use=None)]
    assert uses.expect_early("draft", 1) is None


def test_rows_with_equal_values_need_each_others_pages():
    node = CallNode(name="draft", segments=(TOPIC, QUESTION), output_tokens=6, role="")
    graph = CallGraph(nodes=(node,), num_rows=4, values={"topic": (0, 1, 0, 1)})
    uses = PlannedUses(graph, rank, patience=1)
    first = call_of(graph, "draft", 0)
    uses.consume(first)
    assert uses.started(first) == [
        PrefixUse(token_ids=first.token_ids[:8], next_use=rank("draft", 2))
    ]
    third = call_of(graph, "draft", 2)
    uses.consume(third)
    assert uses.finished(third) == [PrefixUse(token_ids=third.token_ids[:8], next_use=None)]


def test_static_prefixes_are_told_again_only_when_their_use_has_moved_far():
    graph = review_graph(30)
    uses = PlannedUses(graph, rank, patience=100)
    told = []
    for row in range(30):
        draft = call_of(graph, "draft", row)
        uses.consume(draft)
        uses.close("review", row)
        told.append(len(uses.started(draft)))
    assert told[0] == 1
    assert 2 <= sum(told) <= 4


def test_calls_that_no_graph_knows_have_no_planned_uses():
    graph = review_graph()
    uses = PlannedUses(graph, rank, patience=1)
    call = ReadyCall(call_id=0, operator="other", row=9, token_ids=(1, 2, 3))
    uses.consume(call)
    uses.close("other", 9)
    assert uses.at_release(call) is None
    assert uses.started(call) == uses.finished(call) == uses.expired(["other"]) == []


# --- answer lengths -----------------------------------------------------------------------------


def test_estimates_move_to_what_is_observed():
    lengths = OutputLengths(review_graph())
    assert lengths.expected("draft") == 6
    assert lengths.expected("other") is None
    for _ in range(100):
        lengths.observe("draft", 30)
        lengths.observe("other", 5)
    lengths.observe("draft", 0)  # failed
    assert lengths.expected("draft") == pytest.approx(29, abs=0.5)
    assert lengths.expected("other") == 5
    assert lengths.corrections() == {"draft": 30.0}
    assert lengths.corrections() == {}


def test_small_errors_are_no_reason_to_plan_again():
    lengths = OutputLengths(review_graph())
    for _ in range(100):
        lengths.observe("draft", 8)
    assert lengths.corrections() == {}
