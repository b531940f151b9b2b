"""`helium-jax serve`: a model behind an OpenAI-compatible server, with signals and exit codes."""

import asyncio
import contextlib
import gc
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.panel import Panel

from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.cli.load_lines import tell_load
from helium_jax.cli.memory_lines import describe_memory
from helium_jax.cli.progress import compile_progress
from helium_jax.cli.signals import serve_until_signal
from helium_jax.config import EngineConfig
from helium_jax.errors import RequestError
from helium_jax.executor.journal import check_folder
from helium_jax.plan import Plan, load_plan
from helium_jax.runtime import Runtime, open_runtime
from helium_jax.server import RunningServer, ServerConfig, check_address, make_app, start_server
from helium_jax.server.watchdog import watch_engine
from helium_jax.telemetry.logs import logging_to_stderr

SWITCH_S = 0.0005  # against 0.005: 0.6 ms less per token at 32 streams, 3 ms at the 99th percentile
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@click.command()
@click.option("--model", default="helium-tiny", show_default=True, help="Folder or built-in name.")
@click.option("--name", help="What clients call the model.  [default: the folder's name]")
@click.option("--alias", multiple=True, help="Further name for the model; repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--api-key",
    multiple=True,
    envvar="HELIUM_API_KEY",
    help="Key that lets clients in; repeatable. Also from HELIUM_API_KEY, separated by spaces.",
)
@click.option(
    "--admin-key",
    multiple=True,
    help="Key that alone may empty the caches; repeatable.  [default: every key]",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with one key a line.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder where finished outputs, profiles and runs outlive the process.",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--warm",
    "warm_plans",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Plan file whose static prompt prefixes are computed and pinned at start; repeatable.",
)
@click.option("--strict", is_flag=True, help="Unknown fields of a request are an error.")
@click.option(
    "--shutdown-timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that running requests get after SIGTERM.",
)
@click.option(
    "--max-step-age",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds without an engine step after which /health/ready fails.",
)
@click.option(
    "--max-stall",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds of one engine step after which the server gives up and exits with 1.",
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="info logs every request.",
)
@engine_options
def serve(model: str, name: str | None, alias: tuple[str, ...], **options: Any) -> int:
    """Serve a model over HTTP, OpenAI-compatible.

    The first SIGTERM or Ctrl-C lets running requests finish; a second one ends at once. Exit
    code 0 after a clean end, 1 if requests were cut off or the engine has failed.
    """
    keys = _keys(options["api_key"], options["api_key_file"])
    config = ServerConfig(
        host=options["host"],
        port=options["port"],
        api_keys=keys,
        admin_keys=options["admin_key"],
        served_names=alias,
        strict=options["strict"],
        state_dir=options["state_dir"],
        max_step_age_s=options["max_step_age"],
        max_stall_s=options["max_stall"],
        shutdown_timeout_s=options["shutdown_timeout"],
    )
    console = Console(stderr=True)
    if config.host not in LOOPBACK and not keys:
        console.print(
            Panel(
                f"The server listens on {config.host} WITHOUT an API key: everybody who can reach "
                "this address can use it. Set --api-key, or bind 127.0.0.1.",
                title="PUBLIC AND OPEN",
                style="bold red",
            )
        )
    level = logging.getLevelNamesMapping()[options["log_level"].upper()]
    warm = [load_plan(file)[0] for file in options["warm_plans"]]
    place = _Place(
        model=model, name=name, engine=engine_config(options), num_workers=options["workers"]
    )
    return asyncio.run(_serve(place, config, warm, level, console))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What is served, by how many engines."""

    model: str
    name: str | None
    engine: EngineConfig
    num_workers: int


async def _serve(
    place: _Place, config: ServerConfig, warm: list[Plan], log_level: int, console: Console
) -> int:
    """Until the port is open nothing was promised, so a signal ends the process as usual.

    The log begins with the server too: what keeps an engine from starting is raised, not logged.
    """
    await check_address(config)
    if config.state_dir is not None:
        check_folder(config.state_dir)
    async with contextlib.AsyncExitStack() as stack:
        with compile_progress(console) as progress:
            runtime = await stack.enter_async_context(
                open_runtime(
                    place.model,
                    place.engine,
                    name=place.name,
                    num_workers=place.num_workers,
                    progress=progress,
                )
            )
        stack.enter_context(logging_to_stderr(log_level))
        # What the start has made stays. Out of the collector's sight it costs nothing any more: a
        # full collection, for which every thread waits, took 200 ms with it and takes 5 without.
        gc.collect()
        gc.freeze()
        # The event loop and the engine's thread take turns: at Python's own 5 ms one waits for the
        # other about as long as a decode step takes.
        sys.setswitchinterval(SWITCH_S)
        server = await start_server(make_app(runtime, config), config)
        _announce(runtime, server, config, console)
        # From here on signals are ours: what else is done while serving ends with it.
        chores = [
            asyncio.create_task(_warm_all(warm, server, config, console)),
            asyncio.create_task(tell_load(runtime.generator, partial(_say, console))),
        ]
        try:
            return await serve_until_signal(
                server,
                config.shutdown_timeout_s,
                lambda text: console.print(text, style="yellow"),
                watch=watch_engine(runtime.generator, max_stall_s=config.max_stall_s),
            )
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.wait(chores)


def _announce(
    runtime: Runtime, server: RunningServer, config: ServerConfig, console: Console
) -> None:
    info = runtime.generator.info
    (first, *others) = runtime.generator.statistics()
    cache = first.cache
    workers = f" for each of {len(others) + 1} workers" if others else ""
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{server.port}"
    console.print(
        f"[bold]{info.name}[/bold] on {url}/v1  (context {info.max_model_len} tokens, "
        f"KV {cache.num_pages * cache.page_size} tokens in {cache.num_pages} pages{workers})",
        highlight=False,
        soft_wrap=True,
    )
    pool_tokens = cache.num_pages * cache.page_size
    if pool_tokens < info.max_model_len:
        console.print(
            f"the KV pool holds {pool_tokens} tokens, fewer than one context: longer requests are "
            "refused; raise --kv-memory or --num-pages, or lower --max-len",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    memory = describe_memory(runtime.memory, runtime.free_bytes)
    console.print(f"memory: {memory}", highlight=False, soft_wrap=True)
    console.print(f"viewer: {url}/viewer/", highlight=False, soft_wrap=True)
    key = " -H 'Authorization: Bearer <key>'" if config.api_keys else ""
    body = f'{{"model": "{info.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    console.print(
        f"try: curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _say(console: Console, text: str) -> None:
    """One line with the time of day, which no terminal's width breaks."""
    console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, soft_wrap=True)


async def _warm_all(
    plans: list[Plan], server: RunningServer, config: ServerConfig, console: Console
) -> None:
    for plan in plans:
        await asyncio.to_thread(_warm, plan, server, config, console)


def _warm(plan: Plan, server: RunningServer, config: ServerConfig, console: Console) -> None:
    """Asks the server itself, once per key, because keys do not share KV."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    host = f"[{host}]" if ":" in host else host
    body = json.dumps({"plan": plan.document, "pin": True}).encode()
    for key in config.api_keys or ("",):
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"http://{host}:{server.port}/v1/cache/warm", data=body, headers=headers
        )
        try:
            with urllib.request.urlopen(request) as response:
                prefixes = json.load(response)["prefixes"]
        except OSError as error:
            message = str(error)
            if isinstance(error, urllib.error.HTTPError):
                message = json.load(error)["error"]["message"]
            console.print(f"{plan.name or plan.plan_id} is not warm: {message}", style="yellow")
            continue
        tokens = sum(prefix["resident"] for prefix in prefixes)
        console.print(f"{plan.name or plan.plan_id}: {tokens} tokens of its prompts are warm")


def _keys(given: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    keys = [*given]
    if file is not None:
        keys += [line.strip() for line in file.read_text().splitlines() if line.strip()]
        if not keys:
            raise RequestError(f"--api-key-file {file} has no key in it")
    if not all(keys):
        raise RequestError("an --api-key is empty, which would let everybody in")
    return tuple(dict.fromkeys(keys))
