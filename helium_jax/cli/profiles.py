"""`helium-jax profiles`: what earlier runs have shown of plans, kept in a state folder."""

import datetime
from pathlib import Path

import click

from helium_jax.errors import RequestError
from helium_jax.executor.profile_store import ProfileStore


@click.command()
@click.option(
    "--state-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder given to run, explain or serve.",
)
@click.option("--plan", "plan_id", help="Show the operators of one plan, by its id.")
@click.option("--forget", "forgotten", metavar="PLAN_ID", help="Delete a plan's profile.")
def profiles(state_dir: Path, plan_id: str | None, forgotten: str | None) -> None:
    """List what earlier runs have shown of plans: calls, lengths, share of prompts from KV."""
    store = ProfileStore(state_dir / "profiles")
    if forgotten is not None:
        if not store.forget(forgotten):
            raise RequestError(f"there is no profile of {forgotten!r} in {str(state_dir)!r}")
        return
    if plan_id is not None:
        _show(store, plan_id)
        return
    found = store.list()
    if not found:
        click.echo(f"no run has left a profile in {str(state_dir)!r} yet", err=True)
    for saved in found:
        when = datetime.datetime.fromtimestamp(saved.saved_at, datetime.UTC)
        calls = sum(operator.num_calls for operator in saved.profile.operators.values())
        click.echo(
            f"{saved.plan_id}  {saved.plan_name or '-'}  runs={saved.num_runs} calls={calls}  "
            f"{when:%Y-%m-%d %H:%M}Z"
        )


def _show(store: ProfileStore, plan_id: str) -> None:
    operators = store.load(plan_id).operators
    if not operators:
        raise RequestError(f"there is no profile of {plan_id!r}; list them without --plan")
    for name, seen in operators.items():
        click.echo(
            f"{name}  calls={seen.num_calls} reused={seen.num_reused}  "
            f"prompt mean={seen.mean_prompt:.0f} p95={seen.prompt_percentile(95)}  "
            f"output mean={seen.mean_output:.1f} p95={seen.output_percentile(95)}  "
            f"KV={seen.kv_hit_rate:.0%}"
        )
