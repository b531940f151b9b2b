"""EXPLAIN runs nothing and tells what a run would do; ANALYZE puts beside it what it did."""

import asyncio
import json
import xml.etree.ElementTree as ET

import msgspec
import pytest

from helium_jax.errors import RequestError
from helium_jax.executor import RunOptions, Session
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.result import CallSpan
from helium_jax.explain import (
    analyze_plan,
    draw_dot,
    draw_mermaid,
    draw_timeline,
    explain_document,
    explain_plan,
    explain_stages,
    placeholder_row,
    report_on,
)
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator, FakeText

ROWS = [{"question": f"Is number {row} even, odd, or neither?"} for row in range(4)]


def debate(*, max_tokens=8):
    builder = PlanBuilder("debate")
    question = builder.input("question")
    pro = builder.chat(system="You argue FOR.", user=question, max_tokens=max_tokens, name="pro")
    twin = builder.chat(system="You argue FOR.", user=question, max_tokens=max_tokens, name="twin")
    builder.chat(user=question, name="spare")
    judge = builder.chat(
        system="Judge.", user="FOR: " + pro + " ALSO: " + twin, max_tokens=4, name="judge"
    )
    builder.output("verdict", judge)
    return builder.build()


def explain(plan, rows=ROWS, *, generator=None, output_cache=None, **kwargs):
    session = Session(generator or FakeGenerator(), FakeText(), output_cache=output_cache)
    return asyncio.run(explain_plan(session, plan, rows, **kwargs))


async def analyze(plan, rows=ROWS, *, runs=1, **kwargs):
    cache = OutputCache(max_bytes=1 << 20)
    session = Session(FakeGenerator(), FakeText(), output_cache=cache)
    for _ in range(runs):
        report = await analyze_plan(session, plan, rows, **kwargs)
    return report


def test_every_stage_is_shown_with_estimates_and_rewrites():
    text = explain_stages(explain(debate()))
    assert text.index("Logical") < text.index("Optimized") < text.index("Physical")
    assert text.index("Physical") < text.index("Scheduled") < text.index("Prompt tokens: without")
    assert "prune_unused_nodes: operators 5 -> 4, calls 4 -> 3" not in text  # inputs are no calls
    assert "twin: computes the same as pro" in text
    assert "spare: no output needs it" in text
    assert "Chat judge  (rows=4, greedy, max_tokens=4, calls=4" in text
    assert "-> judge (needs pro)" in text
    assert "actual" not in text


def test_reports_on_stages_that_are_kept_share_one_schedule():
    async def reports():
        session = Session(FakeGenerator(), FakeText())
        stages = []
        await session.run(debate(), ROWS, on_prepared=stages.append)
        return [await report_on(stages[0], session.codec) for _ in range(2)]

    first, second = asyncio.run(reports())
    assert first.schedule is second.schedule is first.prepared.schedule
    assert explain_stages(first) == explain_stages(second)


def test_only_the_stages_asked_for_are_shown():
    text = explain_stages(explain(debate()), ["scheduled"])
    assert text.startswith("Scheduled")
    assert "Optimized" not in text


def test_a_disabled_rule_does_not_fire_and_an_unknown_one_is_named():
    options = RunOptions(disabled_rules=frozenset({"merge_equal_subplans"}))
    report = explain(debate(), options=options)
    assert set(report.estimates) == {"pro", "twin", "judge"}
    assert "computes the same" not in explain_stages(report)
    with pytest.raises(RequestError, match="'merge_equal' is no rule"):
        explain(debate(), options=RunOptions(disabled_rules=frozenset({"merge_equal"})))


def test_explain_calls_no_model_and_changes_no_cache():
    generator = FakeGenerator()
    before = generator.statistics()
    explain(debate(), generator=generator)
    assert generator.statistics() == before


def test_tokens_without_reuse_count_merged_operators_too():
    merged = explain(debate())
    apart = explain(
        debate(), options=RunOptions(disabled_rules=frozenset({"merge_equal_subplans"}))
    )
    assert merged.needed_tokens == apart.needed_tokens
    assert merged.computed_tokens <= apart.computed_tokens
    assert 0 < merged.computed_tokens < merged.needed_tokens


def test_analyze_puts_the_actual_figures_beside_the_estimates():
    report = asyncio.run(analyze(debate()))
    text = explain_stages(report)
    assert "(actual values=4 calls=4" in text
    statistics = report.result.statistics
    assert statistics.merged_saved > 0
    assert statistics.needed == (
        statistics.computed
        + statistics.kv_cached
        + statistics.single_flight_saved
        + statistics.result_cached
        + statistics.merged_saved
    )
    assert f"without any reuse {statistics.needed}" in text
    assert report.actuals["judge"].calls == 4


def test_analyze_prints_the_errors_of_both_cost_models():
    report = asyncio.run(analyze(debate()))
    models = report.models
    assert 0.0 <= models.token_step_error <= 1.0
    assert 0.0 <= models.roofline_error <= 1.0
    line = f"Cost models: token-step error {models.token_step_error:.1%}, roofline error"
    assert line in explain_stages(report)
    assert explain_document(report)["cost_models"]["better"] == models.better
    assert asyncio.run(analyze(debate(), runs=2)).models is None  # no call was made
    assert "Cost models" not in explain_stages(explain(debate()))


def test_static_prefixes_are_weighed_and_the_threshold_is_shown():
    builder = PlanBuilder()
    long = builder.chat(system="An expert. " * 9, user=builder.input("q"), name="expert")
    once = builder.completion("A long beginning of its own. " + long, name="short")
    builder.output("o", once)
    plan = builder.build()
    many = explain_stages(explain(plan, [{"q": str(row)} for row in range(4)]))
    assert "Static prefixes (* computed ahead of the calls)" in many
    assert "  * expert: 96 tokens, 4 uses save 288 tokens, threshold 208 tokens\n" in many
    assert "  short: 16 tokens, 4 uses save 48 tokens, threshold 88 tokens\n" in many
    prefixes = explain_document(explain(plan, [{"q": "1"}]))["static_prefixes"]
    assert [entry["computed_ahead"] for entry in prefixes] == [False, False]


def test_an_estimate_that_is_off_by_more_than_three_times_is_flagged():
    far = explain_stages(asyncio.run(analyze(debate(max_tokens=4000))))
    assert "! over 3x from the estimate: answers" in far


def test_a_second_run_shows_fetches_instead_of_calls_and_still_the_same_need():
    first = asyncio.run(analyze(debate()))
    second = asyncio.run(analyze(debate(), runs=2))
    assert second.prepared.optimized.fetched == ("judge",)
    assert "CacheFetch judge  (rows=4)" in explain_stages(second)
    assert second.result.statistics.num_calls == 0
    assert [row.outputs for row in first.result.rows] == [row.outputs for row in second.result.rows]


def test_the_document_is_json_and_holds_every_stage():
    report = asyncio.run(analyze(debate()))
    document = json.loads(msgspec.json.encode(explain_document(report)))
    assert document["optimized"]["merged"] == {"twin": "pro"}
    assert document["operators"]["judge"]["actual"]["done"] == 4
    assert document["scheduled"]["workers"]["0"]
    assert document["actual"]["status"] == "completed"


def test_drawings_hold_every_operator_and_dash_those_that_are_gone():
    report = explain(debate())
    mermaid, dot = draw_mermaid(report), draw_dot(report)
    assert mermaid.startswith("flowchart TD")
    assert 'twin<br/>merged into pro"]:::gone' in mermaid
    assert dot.startswith("digraph plan {")
    assert dot.rstrip().endswith("}")
    assert '"twin" [label="twin\\nmerged into pro", style=dashed];' in dot
    assert '"pro" -> "judge";' in dot


def test_a_plan_without_rows_is_explained_for_a_placeholder():
    plan = debate()
    assert placeholder_row(plan) == {"question": "..."}
    assert explain(plan, [placeholder_row(plan)]).estimates["judge"].calls == 1


def span(operator, ready, submitted, first, finished, **fields):
    given = {"row": 0, "index": (), "worker": 0, "source": "computed", "encoded": ready}
    given |= {"prompt_tokens": 4, "kv_cached": 0, "completion_tokens": 2}
    times = {"ready": ready, "submitted": submitted, "first_token": first, "finished": finished}
    return CallSpan(operator=operator, **(given | times | fields))


def test_the_timeline_is_well_formed_and_has_a_bar_per_phase():
    svg = draw_timeline(
        [
            span("a<b>", 0.0, 0.5, 1.0, 2.0),
            span("a<b>", 0.0, 0.6, 1.0, 2.5, row=1),
            span("c", 2.5, None, None, 2.6, source="result"),
            span("d", 2.5, None, None, 3.0, source="failed", worker=1),
        ],
        title="x & y",
    )
    root = ET.fromstring(svg)
    bars = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(bars) == 3 + 3 + 1 + 1
    titles = [bar[0].text for bar in bars]
    assert "a<b>, rows[1]: decode 1.500 s" in titles
    assert "c, rows[0]: served 0.100 s" in titles
    assert len({bar.get("y") for bar in bars[:6]}) == 2  # calls at the same time have own lanes


def test_the_timeline_of_nothing_is_an_empty_drawing():
    assert ET.fromstring(draw_timeline([])).tag.endswith("svg")
