"""`helium-jax bench`: the paper's experiments on this machine, beside the paper's numbers."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from helium_jax.cli.progress import compile_progress
from helium_jax.experiments.cases import TABLES
from helium_jax.experiments.environment import environment
from helium_jax.experiments.experiment import Case, Record, run_cases
from helium_jax.experiments.optimality import gaps
from helium_jax.experiments.optimality_cases import WORKFLOWS, random_graph
from helium_jax.experiments.plots import plot_tables
from helium_jax.experiments.report import gaps_table, make_table, ratios_table, reasons_table
from helium_jax.experiments.setting import FULL, QUICK, Engines
from helium_jax.experiments.workloads import PROMPT_SHAPES, WORKLOADS
from helium_jax.runtime import Runtime, load_text_of, open_runtime
from helium_jax.schedule.policies import POLICIES

GAPS = "d"  # the one table that needs no engine
NUM_GRAPHS = 1_000  # of table d
WIDTH = 190  # of tables that go to a file


@click.command()
@click.option("--quick", is_flag=True, help="Five minutes on two cores: small model, one round.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    type=click.Choice(sorted([*TABLES, GAPS])),
    default=("a",),
    show_default=True,
    help="a policies, b ablation, c order alone, d optimality gaps, e sensitivity.",
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice([*WORKLOADS, *PROMPT_SHAPES]),
    help="Of tables a, b and c; default: those of the paper.",
)
@click.option("--policy", "policies", multiple=True, type=click.Choice([*POLICIES]))
@click.option("--model", help="Folder, built-in name or random:<shape>.")
@click.option("--scale", type=click.FloatRange(0, 1, min_open=True), help="Of all lengths.")
@click.option("--rows", type=click.IntRange(min=1), help="Of every workload's batch.")
@click.option("--kv-tokens", type=click.IntRange(min=64), help="KV capacity of all workers.")
@click.option("--repeats", type=click.IntRange(min=1), help="Interleaved rounds; medians count.")
@click.option("--seed", default=0, show_default=True, help="Of texts and policies.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines.")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Folder of SVGs.")
def bench(
    quick: bool,
    tables: Sequence[str],
    workloads: Sequence[str],
    policies: Sequence[str],
    model: str | None,
    scale: float | None,
    rows: int | None,
    kv_tokens: int | None,
    repeats: int | None,
    seed: int,
    out: Path | None,
    plots: Path | None,
) -> int:
    """Run the paper's experiments: every policy on its workloads, ablations, sensitivity.

    All policies run over one engine and do the same work: output lengths are forced. Exit code 0.
    """
    setting = replace(QUICK if quick else FULL, seed=seed)
    if model is not None:
        setting = replace(setting, model=model)
    if scale is not None:
        setting = replace(setting, scale=scale, scales={})
    if rows is not None:
        setting = replace(setting, rows={}, default_rows=rows)
    if kv_tokens is not None:
        setting = replace(setting, kv_tokens=kv_tokens)
    if repeats is not None:
        setting = replace(setting, repeats=repeats)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if GAPS in tables:
        _print_gaps(console, num_graphs=NUM_GRAPHS // 10 if quick else NUM_GRAPHS, seed=seed)
    text = load_text_of(setting.model)
    chosen = [table for table in tables if table != GAPS]
    cases = [case for table in chosen for case in TABLES[table](setting, text, workloads, policies)]
    records = asyncio.run(_run(cases, console, out)) if cases else []
    for table in chosen:
        console.print(make_table(table, records))
    if "a" in chosen:
        console.print(ratios_table(records))
    if {"a", "c"} & set(chosen):
        console.print(reasons_table(records))
    if plots is not None:
        for path in plot_tables(records, plots):
            console.print(f"wrote {path}", highlight=False)
    return 0


def _print_gaps(console: Console, *, num_graphs: int, seed: int) -> None:
    rng = random.Random(seed)
    by_workflow = [gaps(graph, rng) for graph in WORKFLOWS.values()]
    console.print(gaps_table(by_workflow, "seven scaled-down workflows"))
    by_graph = [gaps(random_graph(rng), rng) for _ in range(num_graphs)]
    console.print(gaps_table(by_graph, f"{num_graphs} random graphs of up to eight calls"))


async def _run(cases: Sequence[Case], console: Console, out: Path | None) -> list[Record]:
    records: list[Record] = []
    where = environment()
    started = time.monotonic()

    @contextlib.asynccontextmanager
    async def opening(engines: Engines) -> AsyncIterator[Runtime]:
        with compile_progress(console) as progress:
            manager = open_runtime(
                engines.model,
                engines.config(),
                num_workers=engines.num_workers,
                progress=progress,
            )
            runtime = await manager.__aenter__()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(manager)
            yield runtime

    async for record in run_cases(cases, opening=opening):
        records.append(record)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                print(json.dumps(record.fields(where)), file=file)
        one = record.measured
        console.print(
            f"{time.monotonic() - started:6.1f} s  {record.table} {record.case} "
            f"{'merged' if record.merge else 'unmerged'} {record.variant}: {one.seconds:.2f} s, "
            f"{one.calls} calls, {one.computed} prompt tokens computed",
            highlight=False,
        )
    return records
