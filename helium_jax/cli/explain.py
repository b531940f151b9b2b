"""`helium-jax explain`: how a plan would run; calls no model, compiles nothing."""

from pathlib import Path

import click

from helium_jax.cli.plan_files import read_params, read_rows
from helium_jax.executor import count_static_prefix, prepare
from helium_jax.physical import lower
from helium_jax.plan import explain_json, explain_text, load_plan


@click.command()
@click.argument("plan_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.option("--input", "input_file", help="Rows as JSON lines, to count calls; - is stdin.")
@click.option("--model", help="Folder or built-in name whose tokenizer counts shared prefixes.")
@click.option("--param", "assignments", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
def explain(
    plan_file: Path,
    form: str,
    input_file: str | None,
    model: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Show how a plan would run, without running it.

    With --model, only the tokenizer of that model is loaded.
    """
    plan, warnings = load_plan(plan_file)
    params = read_params(plan, assignments)
    num_rows = None
    if input_file is not None:
        _, num_rows, _ = prepare(plan, read_rows(input_file), params)
    prefix_tokens = {}
    if model is not None:
        from helium_jax.runtime import (
            load_text_of,  # imports JAX, which this command can do without
        )

        text = load_text_of(model)
        calls = lower(plan, params).calls
        prefix_tokens = {call.name: count_static_prefix(text, call) for call in calls}
    show = explain_text if form == "text" else explain_json
    click.echo(show(plan, num_rows=num_rows, prefix_tokens=prefix_tokens, warnings=warnings))
