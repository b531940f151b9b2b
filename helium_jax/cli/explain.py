"""`helium-jax explain`: how a plan would run, and with --analyze how it did."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.cli.plan_files import check_output, read_params, read_rows, show_warnings
from helium_jax.cli.plan_options import plan_options, run_options
from helium_jax.cli.progress import compile_progress
from helium_jax.cli.run import write_timeline
from helium_jax.cli.warning_lines import warnings_shown
from helium_jax.errors import RequestError
from helium_jax.executor import prepare_run
from helium_jax.executor.policy import engine_setting
from helium_jax.executor.profile_store import ProfileStore
from helium_jax.executor.rates import RateStore, name_engine
from helium_jax.explain import (
    STAGES,
    Report,
    analyze_plan,
    draw_dot,
    draw_mermaid,
    explain_document,
    explain_stages,
    placeholder_row,
    report_on,
)
from helium_jax.optimizer import Profile
from helium_jax.plan import Plan, Value, load_plan

FORMATS = ("text", "json", "mermaid", "dot")


@click.command()
@click.argument("plan_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--stage", "stages", type=click.Choice(STAGES), multiple=True, help="Repeatable.")
@click.option("--input", "input_file", help="Rows as JSON lines; - is stdin.")
@click.option("--model", default="helium-tiny", show_default=True, help="Folder or built-in name.")
@click.option("--param", "assignments", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--analyze", is_flag=True, help="Run the plan, and show what happened beside it.")
@click.option("--timeline", "timeline_file", help="With --analyze: draw the calls into this SVG.")
@plan_options
@engine_options
def explain(
    plan_file: Path,
    form: str,
    stages: tuple[str, ...],
    input_file: str | None,
    model: str,
    assignments: tuple[str, ...],
    analyze: bool,
    timeline_file: str | None,
    **options: Any,
) -> None:
    """Show how a plan would run: its stages, estimates, rewrites and schedule.

    Without --analyze no model is called and nothing compiled; only its tokenizer is loaded. Then
    --state-dir gives profiles and the engine's speed, but not the answers that would be found:
    those are kept by weights.
    """
    if timeline_file is not None and not analyze:
        raise RequestError("--timeline draws a run; add --analyze")
    if timeline_file is not None:
        check_output(timeline_file)
    if stages and form != "text":
        raise RequestError(f"--stage chooses parts of the text; --format {form} has all of them")
    plan, warnings = load_plan(plan_file)
    show_warnings(warnings)
    params = read_params(plan, assignments)
    rows = [] if input_file is None else read_rows(input_file)
    if input_file is None and plan.inputs:
        if analyze:
            raise RequestError("the plan has inputs; give rows with --input FILE.jsonl")
        click.echo("no --input: explained for one row of placeholders", err=True)
        rows = [placeholder_row(plan)]
    work = _analyze if analyze else _explain
    with warnings_shown():
        report = asyncio.run(work(plan, rows, params, model, options))
    click.echo(_render(report, form, stages))
    if timeline_file is not None and report.result is not None:
        write_timeline(plan, report.result, timeline_file)


def _render(report: Report, form: str, stages: tuple[str, ...]) -> str:
    match form:
        case "json":
            return msgspec.json.format(
                msgspec.json.encode(explain_document(report)), indent=2
            ).decode()
        case "mermaid":
            return draw_mermaid(report)
        case "dot":
            return draw_dot(report)
        case _:
            return explain_stages(report, [s for s in STAGES if s in (stages or STAGES)])


async def _explain(
    plan: Plan,
    rows: list[dict[str, Any]],
    params: dict[str, Value],
    model: str,
    options: dict[str, Any],
) -> Report:
    from helium_jax.runtime import load_text_of, outline_engine  # imports JAX

    how = run_options(options)
    outline = outline_engine(model, engine_config(options), num_workers=options["workers"])
    profile, rates = Profile(), None
    state_dir: Path | None = options["state_dir"]
    if state_dir is not None:  # what earlier runs have shown; a folder that is not there: nothing
        profile = ProfileStore(state_dir / "profiles").load(plan.plan_id)
        engine = name_engine(outline.info, outline.page_size)
        rates = RateStore(state_dir / "rates").load(engine)
    codec = load_text_of(model)
    prepared = await prepare_run(
        plan,
        rows,
        params=params,
        model=outline.info,
        setting=engine_setting(outline.info, outline.page_size, outline.num_pages, how, rates),
        codec=codec,
        options=how,
        output_cache=None,
        profile=profile,
        rates=rates,
    )
    return await report_on(prepared, codec)


async def _analyze(
    plan: Plan,
    rows: list[dict[str, Any]],
    params: dict[str, Value],
    model: str,
    options: dict[str, Any],
) -> Report:
    from helium_jax.runtime import open_runtime, open_session

    config, num_workers = engine_config(options), options["workers"]
    async with contextlib.AsyncExitStack() as stack:
        with compile_progress(Console(stderr=True)) as progress:
            runtime = await stack.enter_async_context(
                open_runtime(model, config, num_workers=num_workers, progress=progress)
            )
        session = await stack.enter_async_context(open_session(runtime, options["state_dir"]))
        return await analyze_plan(session, plan, rows, params=params, options=run_options(options))
