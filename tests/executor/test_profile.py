"""What a run shows of its operators, and what is kept of it."""

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.errors import RequestError
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.profile import profile_of
from helium_jax.executor.profile_sample import pick_sample
from helium_jax.executor.profile_store import ProfileStore
from helium_jax.executor.result import CallSpan, OperatorStatistics, summarize
from helium_jax.executor.session import Session
from helium_jax.optimizer import OperatorProfile, Profile
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator, FakeText

PLAN_ID = "plan_0123"


def span(operator, prompt_tokens, completion_tokens, *, source="computed", kv_cached=0):
    return CallSpan(
        operator=operator,
        row=0,
        index=(),
        worker=None,
        ready=0.0,
        encoded=0.0,
        submitted=0.0,
        first_token=0.0,
        finished=1.0,
        source=source,
        prompt_tokens=prompt_tokens,
        kv_cached=kv_cached,
        completion_tokens=completion_tokens,
    )


def shown(*spans, operators=()):
    return profile_of(summarize(operators, 1.0, spans=spans), 8)


def of(*lengths):
    """The profile of calls of "a" with answers of these lengths."""
    return shown(*(span("a", 100, length, source="kv", kv_cached=60) for length in lengths))


def test_a_profile_sums_up_the_calls_of_a_run():
    operators = (
        OperatorStatistics(operator="a", num_rows=8, num_saved_calls=1, num_cached_calls=2),
        OperatorStatistics(operator="b", num_rows=8, num_cached_calls=8),
    )
    spans = [span("a", 100, 20), span("a", 100, 40, source="kv", kv_cached=60)]
    spans += [span("a", 100, 0, source="result"), span("c", 100, 5, source="failed")]
    assert shown(*spans, operators=operators) == Profile(
        operators={
            "a": OperatorProfile(
                num_rows=8,
                num_calls=2,
                num_reused=3,
                prompt_tokens=200,
                output_tokens=60,
                kv_cached=60,
                prompt_counts={104: 2},
                output_counts={20: 1, 40: 1},
            ),
            "b": OperatorProfile(num_rows=8, num_reused=8),
        }
    )


# --- the folder ---------------------------------------------------------------------------------


def test_profiles_of_runs_add_up_in_the_folder(tmp_path):
    now = iter([1.0, 2.0, 3.0])
    store = ProfileStore(tmp_path / "profiles", clock=lambda: next(now))
    assert store.load(PLAN_ID) == Profile()
    assert store.list() == ()
    store.add(PLAN_ID, of(20, 40), plan_name="debate")
    store.add(PLAN_ID, of(30))
    store.add("plan_other", of(7))
    assert ProfileStore(tmp_path / "profiles").load(PLAN_ID) == (of(20, 40) + of(30))
    assert [(s.plan_id, s.plan_name, s.num_runs, s.saved_at) for s in store.list()] == [
        ("plan_other", "", 1, 3.0),
        (PLAN_ID, "debate", 2, 2.0),
    ]


def test_a_run_without_calls_leaves_no_file(tmp_path):
    store = ProfileStore(tmp_path)
    reused = OperatorStatistics(operator="a", num_rows=8, num_cached_calls=8)
    store.add(PLAN_ID, shown(operators=(reused,)))
    assert store.list() == ()


def test_forgetting_removes_a_plans_file(tmp_path):
    store = ProfileStore(tmp_path)
    store.add(PLAN_ID, of(20))
    assert store.forget(PLAN_ID)
    assert not store.forget(PLAN_ID)
    assert store.load(PLAN_ID) == Profile()


@pytest.mark.parametrize("plan_id", ["../plan", "", "a/b", "x" * 99, "plan 1"])
def test_what_is_no_plan_id_is_refused_before_it_is_a_path(tmp_path, plan_id):
    with pytest.raises(RequestError, match="no plan id"):
        ProfileStore(tmp_path).load(plan_id)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"plan_id": 3}',
        b'{"plan_id":"p","plan_name":"","num_runs":1,"saved_at":1,'
        b'"profile":{"operators":{"a":{"output_tokens":-5}}}}',
        b'{"plan_id":"p","plan_name":"","num_runs":1,"saved_at":1,'
        b'"profile":{"operators":{"a":{"output_counts":{"-3":1}}}}}',
    ],
)
def test_a_damaged_profile_costs_a_warning_and_its_estimates(tmp_path, content, caplog):
    store = ProfileStore(tmp_path)
    (tmp_path / f"{PLAN_ID}.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.load(PLAN_ID) == Profile()
    assert "is not read" in caplog.text
    store.add(PLAN_ID, of(20))
    assert store.load(PLAN_ID).has_seen("a")


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = ProfileStore(tmp_path / "file")
    store.add(PLAN_ID, of(20))
    assert "is not saved" in caplog.text
    assert store.load(PLAN_ID) == Profile()


# --- from runs and samples ----------------------------------------------------------------------

ROWS = [{"q": "x" * (i % 3)} for i in range(9)]


def chain(**fields):
    builder = PlanBuilder()
    draft = builder.chat(user="Say " + builder.input("q"), name="draft", **fields)
    builder.output("final", builder.chat(user="Better: " + draft, name="final", **fields))
    return builder.build()


def open_session(generator, **options):
    return Session(generator, FakeText(), output_cache=OutputCache(), **options)


async def test_a_profile_of_a_run_is_what_its_calls_were():
    generator = FakeGenerator()
    result = await open_session(generator).run(chain(), ROWS)
    profile = profile_of(result.statistics, len(ROWS))
    draft = profile.operators["draft"]
    assert (draft.num_calls, draft.num_reused, draft.num_rows) == (3, 6, 9)
    requests = [r for r in generator.requests if b"Say " in bytes(i % 256 for i in r.token_ids)]
    assert draft.prompt_tokens == sum(len(r.token_ids) for r in requests)
    assert draft.output_tokens == sum(len(generator.answer(r)[0]) for r in requests)
    assert sum(draft.output_counts.values()) == 3
    assert draft.kv_cached == sum(
        op.kv_cached for op in result.statistics.operators if op.operator == "draft"
    )


async def test_5_13_a_samples_outputs_are_not_computed_again():
    rows = [{"q": f"question {i}"} for i in range(8)]
    generator = FakeGenerator()
    session = open_session(generator)
    profile = await session.sample(chain(), rows, size=3)
    assert len(generator.requests) == 6
    assert profile.operators["final"].num_calls == 3
    whole = await session.run(chain(), rows, profile=profile)
    assert len(generator.requests) == 16
    assert whole.statistics.num_cached_calls == 6
    alone = await open_session(FakeGenerator()).run(chain(), rows)
    assert [row.outputs for row in whole.rows] == [row.outputs for row in alone.rows]


async def test_5_13_a_sample_is_an_earlier_run_where_profiles_are_kept(tmp_path):
    store = ProfileStore(tmp_path)
    session = open_session(FakeGenerator(), profiles=store)
    profile = await session.sample(chain(), ROWS, size=3)
    assert await session.profile_of(chain()) == profile
    await session.run(chain(), ROWS)
    (saved,) = store.list()
    assert (saved.plan_id, saved.num_runs) == (chain().plan_id, 2)


async def test_a_samples_draws_are_made_again_because_two_draws_are_two_values():
    rows = [{"q": f"question {i}"} for i in range(4)]
    generator = FakeGenerator()
    session = open_session(generator)
    profile = await session.sample(chain(temperature=0.7), rows, size=2)
    assert profile.has_seen("draft")
    await session.run(chain(temperature=0.7), rows)
    assert len(generator.requests) == 4 + 8


@given(st.integers(0, 50), st.integers(1, 60))
def test_a_sample_is_spread_over_the_batch(num_rows, size):
    sample = pick_sample(num_rows, size)
    assert len(set(sample)) == len(sample) == min(size, num_rows)
    assert list(sample) == sorted(sample)
    gaps = [later - earlier for earlier, later in itertools.pairwise([-1, *sample, num_rows])]
    assert max(gaps) <= 3 * num_rows / max(len(sample), 1) + 2
    assert all(0 <= row < num_rows for row in sample)


def test_a_sample_does_not_meet_only_rows_of_one_kind():
    for period in range(2, 9):
        assert len({row % period for row in pick_sample(96, 12)}) > 1


def test_a_sample_of_no_rows_is_refused():
    with pytest.raises(RequestError, match="at least 1"):
        pick_sample(5, 0)
