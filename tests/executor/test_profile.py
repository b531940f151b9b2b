"""What a run shows of its operators, and what is kept of it."""

import logging

import pytest

from helium_jax.errors import RequestError
from helium_jax.executor.profile import PRIOR_CALLS, Observations
from helium_jax.executor.profile_store import ProfileStore
from helium_jax.optimizer import OperatorProfile, Profile

PLAN_ID = "plan_0123"


def observed(lengths, *, estimate=10.0, prompt=100, cached=60):
    observations = Observations({"a": estimate, "b": 50.0}, num_rows=8)
    for length in lengths:
        observations.observe("a", prompt_tokens=prompt, output_tokens=length, kv_cached=cached)
    return observations


def test_a_profile_sums_up_the_calls_of_a_run():
    observations = observed([20, 40])
    observations.observe_reuse("a")
    assert observations.profile() == Profile(
        operators={
            "a": OperatorProfile(
                num_rows=8,
                num_calls=2,
                num_reused=1,
                prompt_tokens=200,
                output_tokens=60,
                kv_cached=120,
                prompt_counts={104: 2},
                output_counts={20: 1, 40: 1},
            )
        }
    )


def test_5_13_estimates_move_to_what_is_seen_and_a_few_short_answers_do_not_overturn_them():
    assert observed([]).corrected() == {"a": 10.0, "b": 50.0}
    one = observed([1], estimate=512.0).corrected()["a"]
    assert 400 < one < 512
    many = observed([30] * 500, estimate=512.0).corrected()["a"]
    assert 30 < many < 35
    assert PRIOR_CALLS > 1


def test_5_13_the_error_ratio_says_how_far_off_the_estimates_are():
    assert observed([]).estimate_error_ratio == 1.0
    assert observed([10] * 4).estimate_error_ratio == 1.0
    assert observed([30] * 4).estimate_error_ratio == 3.0
    assert observed([30] * 4, estimate=90.0).estimate_error_ratio == 3.0
    assert observed([30] * 3).estimate_error_ratio == 1.0
    assert observed([0] * 4).error_ratios() == {"a": 10.0}


def test_an_operator_counts_as_much_as_its_tokens_in_the_error_ratio():
    observations = observed([20] * 4)  # 2 times off, 80 tokens
    for _ in range(4):
        observations.observe("b", prompt_tokens=1, output_tokens=200, kv_cached=0)  # 4 times, 800
    assert observations.estimate_error_ratio == pytest.approx((80 * 2 + 800 * 4) / 880)


def test_operators_that_were_not_planned_are_profiled_without_an_error():
    observations = observed([])
    observations.observe("new", prompt_tokens=5, output_tokens=5, kv_cached=0)
    assert observations.profile().has_seen("new")
    assert observations.error_ratios() == {}


# --- the folder ---------------------------------------------------------------------------------


def test_profiles_of_runs_add_up_in_the_folder(tmp_path):
    now = iter([1.0, 2.0, 3.0])
    store = ProfileStore(tmp_path / "profiles", clock=lambda: next(now))
    assert store.load(PLAN_ID) == Profile()
    assert store.list() == ()
    store.add(PLAN_ID, observed([20, 40]).profile(), plan_name="debate")
    store.add(PLAN_ID, observed([30]).profile())
    store.add("plan_other", observed([7]).profile())
    assert ProfileStore(tmp_path / "profiles").load(PLAN_ID) == (
        observed([20, 40]).profile() + observed([30]).profile()
    )
    assert [(s.plan_id, s.plan_name, s.num_runs, s.saved_at) for s in store.list()] == [
        ("plan_other", "", 1, 3.0),
        (PLAN_ID, "debate", 2, 2.0),
    ]


def test_a_run_without_calls_leaves_no_file(tmp_path):
    store = ProfileStore(tmp_path)
    observations = observed([])
    observations.observe_reuse("a")
    store.add(PLAN_ID, observations.profile())
    assert store.list() == ()


def test_forgetting_removes_a_plans_file(tmp_path):
    store = ProfileStore(tmp_path)
    store.add(PLAN_ID, observed([20]).profile())
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
    store.add(PLAN_ID, observed([20]).profile())
    assert store.load(PLAN_ID).has_seen("a")


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = ProfileStore(tmp_path / "file")
    store.add(PLAN_ID, observed([20]).profile())
    assert "is not saved" in caplog.text
    assert store.load(PLAN_ID) == Profile()
