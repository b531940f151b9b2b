"""`helium-jax explain`: how a plan would run, and with --analyze how it did."""

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.cli.plan_files import read_params, read_rows, show_warnings
from helium_jax.cli.progress import compile_progress
from helium_jax.config import EngineConfig
from helium_jax.errors import RequestError
from helium_jax.executor import RunOptions, Session
from helium_jax.explain import (
    STAGES,
    Report,
    analyze_plan,
    draw_dot,
    draw_mermaid,
    draw_timeline,
    explain_document,
    explain_plan,
    explain_stages,
    placeholder_row,
)
from helium_jax.plan import Plan, Value, load_plan
from helium_jax.schedule.dispatch import DispatchSetting

FORMATS = ("text", "json", "mermaid", "dot")


@click.command()
@click.argument("plan_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--stage", "stages", type=click.Choice(STAGES), multiple=True, help="Repeatable.")
@click.option("--input", "input_file", help="Rows as JSON lines; - is stdin.")
@click.option("--model", default="helium-tiny", show_default=True, help="Folder or built-in name.")
@click.option("--param", "assignments", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--disable", "disabled", multiple=True, metavar="RULE", help="Repeatable.")
@click.option("--policy", default="helium", show_default=True, help="Who orders the calls.")
@click.option("--analyze", is_flag=True, help="Run the plan, and show what happened beside it.")
@click.option("--timeline", "timeline_file", help="With --analyze: draw the calls into this SVG.")
@engine_options
def explain(
    plan_file: Path,
    form: str,
    stages: tuple[str, ...],
    input_file: str | None,
    model: str,
    assignments: tuple[str, ...],
    disabled: tuple[str, ...],
    policy: str,
    analyze: bool,
    timeline_file: str | None,
    **options: Any,
) -> None:
    """Show how a plan would run: its stages, estimates, rewrites and schedule.

    Without --analyze no model is called and nothing compiled; only its tokenizer is loaded.
    """
    if timeline_file is not None and not analyze:
        raise RequestError("--timeline draws a run; add --analyze")
    plan, warnings = load_plan(plan_file)
    show_warnings(warnings)
    params = read_params(plan, assignments)
    rows = [] if input_file is None else read_rows(input_file)
    if input_file is None and plan.inputs:
        if analyze:
            raise RequestError("the plan has inputs; give rows with --input FILE.jsonl")
        click.echo("no --input: explained for one row of placeholders", err=True)
        rows = [placeholder_row(plan)]
    how = RunOptions(policy=policy, disabled_rules=frozenset(disabled))
    config = engine_config(options)
    work = _analyze if analyze else _explain
    report = asyncio.run(work(plan, rows, params, model, config, how))
    click.echo(_render(report, form, stages))
    if timeline_file is not None and report.result is not None:
        svg = draw_timeline(report.result.statistics.spans, title=plan.name or plan.plan_id)
        try:
            Path(timeline_file).write_text(svg, encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot write {timeline_file!r}: {error.strerror}") from None


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
    config: EngineConfig,
    options: RunOptions,
) -> Report:
    from helium_jax.runtime import load_text_of, outline_engine  # imports JAX

    outline = outline_engine(model, config)
    info = outline.info
    setting = DispatchSetting(
        num_workers=info.num_workers,
        page_size=outline.page_size,
        kv_tokens=max(outline.page_size * outline.num_pages, info.max_model_len),
        max_num_seqs=info.max_num_seqs,
        max_num_batched_tokens=info.max_num_batched_tokens,
        seed=options.seed,
    )
    return await explain_plan(
        plan,
        rows,
        model=info,
        setting=setting,
        codec=load_text_of(model),
        params=params,
        options=options,
    )


async def _analyze(
    plan: Plan,
    rows: list[dict[str, Any]],
    params: dict[str, Value],
    model: str,
    config: EngineConfig,
    options: RunOptions,
) -> Report:
    from helium_jax.runtime import open_runtime

    with compile_progress(Console(stderr=True)) as progress:
        async with open_runtime(model, config, progress=progress) as runtime:
            session = Session(runtime.generator, runtime.text)
            return await analyze_plan(session, plan, rows, params=params, options=options)
