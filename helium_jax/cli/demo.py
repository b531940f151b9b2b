"""`helium-jax demo`: two workflows on a real server's engine, naive and not, answers checked."""

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from helium_jax.builtin.workloads import WORKLOADS, Workload, make_workload
from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.cli.progress import compile_progress
from helium_jax.cli.run_display import RunDisplay
from helium_jax.cli.signals import serve_until_signal
from helium_jax.config import EngineConfig
from helium_jax.executor import NAIVE, RunEvent, RunOptions, RunResult, run_plan
from helium_jax.executor.events import OpProgress
from helium_jax.plan import parse_plan
from helium_jax.runtime import Runtime, open_runtime
from helium_jax.server import ServerConfig, check_address, make_app, start_server
from helium_jax.server.watchdog import watch_engine

# Of all outputs of a workload. The model card says 99-100 % for each kind of call in them; a
# workload has few dozen outputs, so chance needs some room.
ACCURACY_FLOOR = 0.95
SHUTDOWN_TIMEOUT_S = 10.0
QUESTION = "Answers:\n- yes\n- no\n- yes\n\nWhich answer is the most common?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One workload run both ways.

    Attributes:
        workload: what ran.
        naive: one call at a time, nothing reused.
        shared: the same rows through batching and prefix sharing.
    """

    workload: Workload
    naive: RunResult
    shared: RunResult

    @property
    def is_identical(self) -> bool:
        """Every output of every row is the same text both ways, and none is missing."""
        pairs = zip(self.naive.rows, self.shared.rows, strict=True)
        same = all(a.outputs == b.outputs for a, b in pairs)
        return same and not self.naive.errors and not self.shared.errors

    @property
    def accuracy(self) -> float:
        """Fraction of the outputs that are exactly right, up to white space at their ends."""
        right = [
            (row.outputs[name] or "").strip() == value
            for row, answer in zip(self.shared.rows, self.workload.answers, strict=True)
            for name, value in answer.items()
        ]
        return sum(right) / len(right)


@click.command()
@click.option("--model", default="helium-tiny", show_default=True, help="Folder or built-in name.")
@click.option("--rows", "num_rows", default=12, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--seed", "data_seed", default=0, show_default=True, help="Of contexts and questions."
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--exit", "ends", is_flag=True, help="End instead of leaving the server up.")
@engine_options
def demo(model: str, num_rows: int, data_seed: int, port: int, ends: bool, **options: Any) -> int:
    """Watch two agentic workflows run, first naively, then through the engine.

    Exit code 0 only if both ways gave identical outputs and the answers are right often enough.
    The engine runs in deterministic mode, in which a row's bits do not depend on its neighbours.
    """
    engine = replace(engine_config(options), deterministic=True)
    workloads = [make_workload(name, num_rows=num_rows, seed=data_seed) for name in WORKLOADS]
    return asyncio.run(_demo(model, engine, workloads, port, ends))


async def _demo(
    model: str, engine: EngineConfig, workloads: Sequence[Workload], port: int, ends: bool
) -> int:
    console = Console()
    started = time.monotonic()
    config = ServerConfig(port=0 if ends else port, shutdown_timeout_s=SHUTDOWN_TIMEOUT_S)
    await check_address(config)
    async with contextlib.AsyncExitStack() as stack:
        with compile_progress(console) as progress:
            runtime = await stack.enter_async_context(
                open_runtime(model, engine, progress=progress)
            )
        server = await start_server(make_app(runtime, config), config)
        stack.push_async_callback(server.close)
        console.print(
            f"{runtime.name} is up on http://127.0.0.1:{server.port}/v1 "
            f"after {time.monotonic() - started:.1f} s",
            highlight=False,
        )
        first_token = _FirstToken(started, console)
        outcomes = [await _run_both(runtime, w, console, first_token) for w in workloads]
        console.print(make_table(outcomes))
        answer = await asyncio.to_thread(ask, server.port, runtime.name)
        console.print(f"over HTTP, the majority of yes, no, yes: {answer!r}", highlight=False)
        code = say_verdict(outcomes, console)
        if ends:
            return code
        console.print(f"try: {curl_line(server.port, runtime.name)}", soft_wrap=True, markup=False)
        for outcome in outcomes:
            await asyncio.to_thread(submit, server.port, outcome.workload)
        console.print(
            "both run again over HTTP; watch them, their plans, calls and pages at "
            f"http://127.0.0.1:{server.port}/viewer/",
            highlight=False,
            soft_wrap=True,
        )
        console.print("the server stays up; Ctrl-C ends it")
        left = await serve_until_signal(
            server,
            SHUTDOWN_TIMEOUT_S,
            console.print,
            watch=watch_engine(runtime.generator, max_stall_s=config.max_stall_s),
        )
        return max(code, left)


class _FirstToken:
    """Says once how long it took until the first token of all."""

    def __init__(self, started: float, console: Console) -> None:
        self._started = started
        self._console = console
        self._is_said = False

    def on_event(self, event: RunEvent) -> None:
        if self._is_said or not isinstance(event.progress, OpProgress):
            return
        self._is_said = True
        seconds = time.monotonic() - self._started
        self._console.print(f"first token after {seconds:.1f} s", highlight=False)


async def _run_both(
    runtime: Runtime, workload: Workload, console: Console, first_token: _FirstToken
) -> Outcome:
    results = []
    for label, options in (("one call at a time", NAIVE), ("shared", RunOptions())):
        await runtime.generator.reset_cache()  # each way starts with an empty store
        console.print(f"{workload.name}, {len(workload.rows)} rows, {label}", highlight=False)
        result = await _run(runtime, workload, options, console, first_token.on_event)
        results.append(result)
    return Outcome(workload=workload, naive=results[0], shared=results[1])


async def _run(
    runtime: Runtime,
    workload: Workload,
    options: RunOptions,
    console: Console,
    listen: Callable[[RunEvent], None],
) -> RunResult:
    plan, _ = parse_plan(workload.plan_source, is_json=False)
    display = RunDisplay()

    def on_event(event: RunEvent) -> None:
        listen(event)
        display.on_event(event)

    with Live(display, console=console, refresh_per_second=8, transient=True):
        return await run_plan(
            plan,
            workload.rows,
            generator=runtime.generator,
            codec=runtime.text,
            options=options,
            on_event=on_event,
        )


def make_table(outcomes: Sequence[Outcome]) -> Table:
    """What each way cost."""
    title = "prompt tokens: needed = computed + reused"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("workload", "how"):
        table.add_column(heading, no_wrap=True)
    for heading in ("seconds", "speed", "calls", "needed", "computed", "reused", "right"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        base = outcome.naive.statistics.seconds
        for how, result in (("naive", outcome.naive), ("shared", outcome.shared)):
            cost = result.statistics
            computed = cost.computed + cost.precomputed  # ahead of the first call or in it
            table.add_row(
                outcome.workload.name,
                how,
                f"{cost.seconds:.2f}",
                f"{base / cost.seconds:.2f}x" if cost.seconds else "-",
                str(cost.num_calls),
                str(cost.needed),
                str(computed),
                f"{(cost.needed - computed) / max(cost.needed, 1):.0%}",
                f"{outcome.accuracy:.1%}" if how == "shared" else "",
            )
    return table


def say_verdict(outcomes: Sequence[Outcome], console: Console) -> int:
    """Prints what was checked; returns the exit code."""
    code = 0
    for outcome in outcomes:
        name = outcome.workload.name
        if outcome.is_identical:
            console.print(f"{name}: outputs identical", style="green")
        else:
            console.print(f"{name}: OUTPUTS DIFFER between the two ways", style="bold red")
            code = 1
        for error in (*outcome.naive.errors, *outcome.shared.errors)[:3]:
            console.print(f"{name}: {error}", style="red", markup=False)
        if outcome.accuracy < ACCURACY_FLOOR:
            message = f"{name}: {outcome.accuracy:.1%} right, below {ACCURACY_FLOOR:.0%}"
            console.print(message, style="bold red")
            code = 1
    return code


def chat_body(model: str) -> Mapping[str, Any]:
    """A request that the built-in model can answer."""
    return {"model": model, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}


def curl_line(port: int, model: str) -> str:
    """A command line that asks the server the same."""
    return (
        f"curl http://127.0.0.1:{port}/v1/chat/completions "
        f"-H 'Content-Type: application/json' -d '{json.dumps(chat_body(model))}'"
    )


def ask(port: int, model: str) -> str:
    """The server's answer over HTTP; blocks."""
    answer = _post(port, "/v1/chat/completions", chat_body(model))
    return answer["choices"][0]["message"]["content"]


def submit(port: int, workload: Workload) -> str:
    """Has the server run a workload in the background, where the viewer shows it; blocks.

    Returns the run's id.
    """
    plan, _ = parse_plan(workload.plan_source, is_json=False)
    rows = [dict(row) for row in workload.rows]
    body = {"plan": plan.document, "inputs": rows, "background": True}
    return _post(port, "/v1/runs", body)["id"]


def _post(port: int, path: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(dict(body)).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
