"""`helium-jax run`: a plan over rows of inputs, with the engine in this process."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.live import Live

from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.cli.plan_files import check_output, read_params, read_rows, show_warnings
from helium_jax.cli.plan_options import plan_options, run_options
from helium_jax.cli.progress import compile_progress
from helium_jax.cli.run_display import RunDisplay, summary_lines
from helium_jax.cli.warning_lines import warnings_shown
from helium_jax.config import EngineConfig
from helium_jax.errors import RequestError
from helium_jax.executor import RowResult, RunOptions, RunResult, prepare
from helium_jax.explain import draw_timeline
from helium_jax.plan import Plan, Value, load_plan
from helium_jax.runtime import open_runtime, open_session

MAX_ERRORS_SHOWN = 10
Rows = list[dict[str, Any]]


@click.command()
@click.argument("plan_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--input", "input_file", help="Rows as JSON lines; - is stdin.")
@click.option("--output", "output_file", default="-", help="Results as JSON lines.  [default: -]")
@click.option("--model", default="helium-tiny", show_default=True, help="Folder or built-in name.")
@click.option("--param", "assignments", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--naive", is_flag=True, help="One call at a time, no reuse: to compare with.")
@click.option("--sample", type=click.IntRange(1), help="Profile the plan on so many rows first.")
@click.option("--timeline", "timeline_file", help="Draw the calls over time into this SVG.")
@plan_options
@engine_options
def run(
    plan_file: Path,
    input_file: str | None,
    output_file: str,
    model: str,
    assignments: tuple[str, ...],
    naive: bool,
    sample: int | None,
    timeline_file: str | None,
    **options: Any,
) -> int:
    """Run a plan over rows of inputs.

    Every line of the output has the row's index, from 0, its outputs, and errors if it has any.
    The exit code is 0 only if no row failed.
    """
    plan, warnings = load_plan(plan_file)
    show_warnings(warnings)
    params = read_params(plan, assignments)
    rows = rows_of(plan, input_file)
    check_output(output_file)
    if timeline_file is not None:
        check_output(timeline_file)
    how = run_options(options, naive=naive)
    prepare(plan, rows, params)  # all that can be wrong with the input, before the model is loaded
    place = _Place(
        model=model,
        engine=engine_config(options),
        num_workers=options["workers"],
        state_dir=options["state_dir"],
    )
    with warnings_shown():
        result = asyncio.run(_run(plan, rows, params, how, sample, place))
    write_results(result, output_file)
    if timeline_file is not None:
        write_timeline(plan, result, timeline_file)
    for line in summary_lines(result):
        click.echo(line, err=True)
    for error in result.errors[:MAX_ERRORS_SHOWN]:
        click.echo(f"helium-jax: error: {error}", err=True)
    if len(result.errors) > MAX_ERRORS_SHOWN:
        click.echo(f"... and {len(result.errors) - MAX_ERRORS_SHOWN} more errors", err=True)
    return 1 if result.errors or result.status != "completed" else 0


def rows_of(plan: Plan, input_file: str | None) -> Rows:
    """The rows of the batch; none are needed where a plan has no inputs.

    Raises:
        RequestError: they are missing or cannot be read.
    """
    if input_file is not None:
        return read_rows(input_file)
    if plan.inputs:
        names = ", ".join(node.name for node in plan.inputs)
        raise RequestError(f"the plan has inputs ({names}); give rows with --input FILE.jsonl")
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a plan runs."""

    model: str
    engine: EngineConfig
    num_workers: int
    state_dir: Path | None


async def _run(
    plan: Plan,
    rows: Rows,
    params: dict[str, Value],
    options: RunOptions,
    sample: int | None,
    place: _Place,
) -> RunResult:
    notes = Console(stderr=True)
    async with contextlib.AsyncExitStack() as stack:
        with compile_progress(notes) as progress:
            runtime = await stack.enter_async_context(
                open_runtime(
                    place.model, place.engine, num_workers=place.num_workers, progress=progress
                )
            )
        session = await stack.enter_async_context(open_session(runtime, place.state_dir))
        profile = None
        if sample is not None:
            profile = await session.sample(plan, rows, size=sample, params=params, options=options)
        display = RunDisplay()
        with _shown(display, notes):
            return await session.run(
                plan,
                rows,
                params=params,
                options=options,
                on_event=display.on_event,
                profile=profile,
            )


def _shown(display: RunDisplay, notes: Console) -> contextlib.AbstractContextManager[object]:
    """Draws the display while it runs, if a person looks: a log would get empty lines."""
    if not notes.is_terminal:
        return contextlib.nullcontext()
    return Live(display, console=notes, refresh_per_second=8, transient=True)


def write_timeline(plan: Plan, result: RunResult, file: str) -> None:
    """The calls of a run as an SVG.

    Raises:
        RequestError: the file cannot be written.
    """
    svg = draw_timeline(result.statistics.spans, title=plan.name or plan.plan_id)
    try:
        Path(file).write_text(svg, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot write {file!r}: {error.strerror}") from None


def write_results(result: RunResult, output_file: str) -> None:
    """One JSON object a line, in the order of the rows.

    Raises:
        RequestError: the file cannot be written.
    """
    lines = b"".join(msgspec.json.encode(result_document(row)) + b"\n" for row in result.rows)
    try:
        with click.open_file(output_file, "wb") as file:
            file.write(lines)
    except BrokenPipeError:
        raise  # nothing is wrong with the file: its reader has seen enough
    except OSError as error:
        raise RequestError(f"cannot write {output_file!r}: {error.strerror}") from None


def result_document(row: RowResult) -> dict[str, Any]:
    """A row's result as builtin values; `errors` only where there are some."""
    document: dict[str, Any] = {"row": row.row, "outputs": dict(row.outputs)}
    if row.errors:
        document["errors"] = [
            {"operator": error.operator, "code": error.code, "message": error.message}
            for error in row.errors
        ]
    return document
