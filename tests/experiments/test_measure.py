"""Measured runs, cases and tables, over a fake engine."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from helium_jax.errors import InternalError
from helium_jax.experiments.cases import TABLES
from helium_jax.experiments.environment import environment
from helium_jax.experiments.experiment import Case, run_cases
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.measure import equal_outputs, measure
from helium_jax.experiments.plots import plot_tables
from helium_jax.experiments.report import (
    gaps_table,
    make_table,
    ratios_table,
    reasons_table,
    summarise,
)
from helium_jax.experiments.setting import FULL, QUICK, Engines
from helium_jax.experiments.variant import ablations, alone, variant_of
from helium_jax.experiments.watching import Watcher
from helium_jax.experiments.workloads import WORKLOADS
from helium_jax.runtime import Runtime, load_text_of
from helium_jax.schedule.policies import POLICIES
from helium_jax.testing import FakeGenerator
from helium_jax.types import GenerateRequest, ModelInfo, PlannedUse, SamplingParams

TEXT = load_text_of("helium-tiny")
ALPHABET = tuple(TEXT.encode("3")) + tuple(TEXT.encode("7"))
ENGINES = Engines(model="fake", kv_tokens=4096)


def fake(**options) -> FakeGenerator:
    info = ModelInfo(
        name="fake", vocab_size=1280, max_model_len=40_000, max_num_seqs=16, version="1"
    )
    return FakeGenerator(info=info, alphabet=ALPHABET, tokens_per_event=16, **options)


def runtime(generator: FakeGenerator) -> Runtime:
    return Runtime(name="fake", generator=generator, text=TEXT)


def workload(name: str = "debate-mmlu", num_rows: int = 3):
    return WORKLOADS[name](Filler(TEXT, scale=0.15), num_rows=num_rows)


async def records_of(cases):
    @asynccontextmanager
    async def opening(engines):
        yield runtime(fake())

    return [record async for record in run_cases(cases, opening=opening)]


@pytest.mark.parametrize("policy", POLICIES)
async def test_every_policy_does_the_same_work_with_equal_outputs(policy):
    variant = replace(variant_of(policy), num_rows=None)
    measured, outputs = await measure(runtime(fake()), workload(), variant)
    _, expected = await measure(runtime(fake()), workload(), variant_of("langgraph"))
    assert equal_outputs(outputs, expected) == 1.0
    assert (measured.calls, measured.num_rows) == (18, 3)
    lengths = 3 * (3 * round(300 * 0.15) + 3 * round(360 * 0.15))
    assert measured.output_tokens == lengths


async def test_merging_is_a_matter_of_the_variant():
    mmlu = workload("map-reduce-mmlu", num_rows=2)
    for policy in ("langgraph", "helium"):
        plain, _ = await measure(runtime(fake()), mmlu, variant_of(policy))
        merged, _ = await measure(runtime(fake()), mmlu, variant_of(policy, merge=True))
        assert (plain.calls, merged.calls) == (30, 16)


async def test_the_second_day_runs_after_the_first_and_finds_its_answers():
    second_day = workload("trading-day-two", num_rows=1)
    ours, _ = await measure(runtime(fake()), second_day, variant_of("helium", merge=True))
    assert (ours.calls, ours.reused_calls) == (56 - 9, 9)
    assert ours.warmup_s > 0
    theirs, _ = await measure(runtime(fake()), second_day, variant_of("kvflow", merge=True))
    assert (theirs.calls, theirs.reused_calls) == (56, 0)


async def test_a_failing_row_is_no_measurement():
    with pytest.raises(InternalError, match="debate-mmlu under langgraph: row"):
        await measure(
            runtime(fake(fail=lambda request, sent: InternalError("broken"))),
            workload(),
            variant_of("langgraph"),
        )


async def test_nothing_but_the_order_is_left_when_scheduling_is_alone():
    generator = fake()
    measured, _ = await measure(runtime(generator), workload(), alone("helium"))
    assert (measured.precomputed, generator.warmed) == (0, [])


async def test_a_store_without_limits_computes_each_page_once():
    watcher = Watcher(fake())
    prompt = tuple(ALPHABET[0] for _ in range(40))
    for name, ids in (("a", prompt), ("b", prompt), ("c", (*prompt[:20], *ALPHABET * 10))):
        request = GenerateRequest(
            request_id=name, token_ids=ids, sampling=SamplingParams(max_tokens=1)
        )
        async for _ in watcher.generate(request):
            pass
    # 40, then all but two full pages of 16, then all but the one page that is equal.
    assert watcher.least_computed(16) == 40 + 8 + (40 - 16)
    watcher.clear()
    assert watcher.least_computed(16) == 0


async def test_a_forgetful_generator_tells_the_store_nothing():
    generator = fake()
    watcher = Watcher(generator, forgetful=True)
    await watcher.foresee([PlannedUse(token_ids=(5,), next_use=1)])
    request = GenerateRequest(request_id="a", token_ids=(5, 6), planned_next_use=3)
    async for _ in watcher.generate(request):
        pass
    assert generator.foreseen == []
    assert generator.requests[0].planned_next_use is None


async def test_rounds_interleave_and_ratios_are_over_helium_in_the_same_round():
    case = Case(
        table="a",
        name="debate-mmlu",
        workload=workload(),
        engines=ENGINES,
        variants=tuple(variant_of(policy) for policy in ("helium", "langgraph", "naive")),
        merge=False,
        repeats=2,
    )
    records = await records_of([case])
    order = ["helium", "langgraph", "naive", "langgraph", "naive", "helium"]
    assert [record.variant for record in records] == order
    assert [record.measured.num_rows for record in records] == [3, 3, 1, 3, 1, 3]
    assert {record.equal_outputs for record in records} == {1.0}
    lines = {line.variant: line for line in summarise(records)}
    assert lines["helium"].times_helium == 1.0
    assert (lines["langgraph"].paper, lines["helium"].paper) == (1.23, None)
    fields = json.loads(json.dumps(records[0].fields(environment())))
    assert {"device", "jax", "version", "commit", "date", "seconds", "kv_tokens"} <= fields.keys()
    console = Console(width=200, record=True, file=StringIO())
    console.print(make_table("a", records))
    console.print(ratios_table(records))
    text = console.export_text()
    assert "(1 row)" in text
    assert "/ 1.23" in text


async def test_a_ratio_below_the_papers_has_its_reason_beside_it():
    variants = tuple(variant_of(policy) for policy in ("helium", "op_wise", "langgraph"))
    case = Case(
        table="a",
        name="debate-mmlu",
        workload=workload(),
        engines=ENGINES,
        variants=variants,
        merge=False,
    )

    def timed(record, seconds):
        work = {"computed": 1000, "precomputed": 0, "floor": 1000, "steps": 200, "mean_batch": 8.0}
        work |= {"planning_s": 0.2, "precompute_s": 0.0}
        return replace(record, measured=replace(record.measured, seconds=seconds, **work))

    helium, op_wise, langgraph = await records_of([case])
    slow = replace(
        timed(op_wise, 8.0), measured=replace(timed(op_wise, 8.0).measured, computed=1500)
    )
    table = reasons_table([timed(helium, 10.0), slow, timed(langgraph, 20.0)])
    cells = [[*column.cells] for column in table.columns]
    assert [column[0] for column in cells[:4]] == ["debate-mmlu", "op_wise", "0.80", "1.27"]
    assert cells[4] == [  # langgraph is slower than in the paper, so that nothing is to explain
        "computes +50% prompt tokens; takes +0% steps, of 8.0 answers each (Helium 8.0); "
        "Helium plans and computes ahead for 2%"
    ]
    near = reasons_table([timed(helium, 10.0), timed(langgraph, 10.0)])
    (text,) = near.columns[4].cells
    assert str(text).startswith("computes +0% prompt tokens; within 0% of what any order must;")


def test_the_gap_table_has_the_papers_numbers_beside_ours():
    table = gaps_table([{"ours": 0.0, "lspf": 10.0}, {"ours": 1.0, "lspf": 20.0}], "two graphs")
    cells = [[*column.cells] for column in table.columns]
    assert cells == [
        ["ours", "lspf"],
        ["0.5", "15.0"],
        ["1.0", "20.0"],
        ["0.9", "14.5"],
        ["3.6", "30.5"],
    ]


@pytest.mark.parametrize("table", TABLES)
def test_each_table_has_cases_that_begin_with_helium(table):
    setting = replace(QUICK, rows={}, default_rows=2, scale=0.05, scales={})
    cases = TABLES[table](setting, TEXT, (), ())
    assert {case.table for case in cases} == {table}
    names = [case.variants[0].name for case in cases]
    assert set(names) <= {"helium", "minus cascade"}
    assert names[0] == "helium"


def test_the_ablation_takes_one_part_away_at_a_time():
    full, *others = ablations()
    changed = [
        (other.name, other.options != full.options, other.plans_eviction) for other in others
    ]
    assert [name for name, options, eviction in changed if not options and eviction] == []
    assert len({repr(other) for other in others}) == len(others)


def test_the_kv_capacity_of_a_full_run_is_scaled_with_its_rows():
    small = FULL.make("trading", TEXT, num_rows=1)
    assert FULL.kv_capacity(small) == 2 * 2**18 // 16 // 4
    assert QUICK.kv_capacity(small) == 4096


async def test_plots_are_files(tmp_path):
    pytest.importorskip("matplotlib")
    case = Case(
        table="a",
        name="debate-mmlu",
        workload=workload(num_rows=1),
        engines=ENGINES,
        variants=(variant_of("helium"), variant_of("langgraph")),
        merge=False,
    )
    (path,) = plot_tables(await records_of([case]), tmp_path)
    assert path.read_text().startswith("<?xml")
