"""The options that every command with a plan has: how its calls are ordered and reused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from helium_jax.errors import RequestError
from helium_jax.executor import NAIVE, RunOptions
from helium_jax.executor.options import AS_READY, CostModel
from helium_jax.optimizer import RULE_NAMES
from helium_jax.schedule.policies import POLICIES

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--policy",
        type=click.Choice([*POLICIES, AS_READY]),
        default="helium",
        show_default=True,
        help="Who orders and places the calls.",
    ),
    click.option(
        "--disable",
        "disabled",
        type=click.Choice(RULE_NAMES),
        multiple=True,
        help="Rule that shall not rewrite the plan; repeatable.",
    ),
    click.option("--strict-order", is_flag=True, help="Keep the planned order even if idle."),
    click.option(
        "--cost-model",
        type=click.Choice(get_args(CostModel)),
        default="best",
        show_default=True,
        help="What orders are compared by; best: what predicted earlier runs better.",
    ),
    click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64)),
    click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder where finished outputs and profiles of plans are kept between runs.",
    ),
    click.option("--no-output-cache", is_flag=True, help="Answer every call anew."),
)


def plan_options(command: F) -> F:
    """Adds the options to a command, which gets them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _was_given(name: str) -> bool:
    context = click.get_current_context()
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def run_options(options: dict[str, Any], *, naive: bool = False) -> RunOptions:
    """How the run goes, from the options that were given.

    Raises:
        RequestError: `naive` and an option that it decides itself.
    """
    if naive:
        given = {
            "--policy": _was_given("policy"),
            "--disable": options["disabled"],
            "--strict-order": options["strict_order"],
            "--cost-model": _was_given("cost_model"),
        }
        if names := [name for name, is_given in given.items() if is_given]:
            raise RequestError(f"--naive decides {', '.join(names)} itself; leave out one of both")
        return NAIVE
    return RunOptions(
        policy=options["policy"],
        disabled_rules=frozenset(options["disabled"]),
        strict_order=options["strict_order"],
        cost_model=options["cost_model"],
        output_cache=not options["no_output_cache"],
    )
