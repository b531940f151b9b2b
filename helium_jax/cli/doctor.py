"""`helium-jax doctor`: is this installation able to run, and on what."""

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click
from rich.console import Console

from helium_jax.errors import HeliumError

BUILTIN = "helium-tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        text: what was found, and the way out when it is wrong.
        is_fault: it keeps something from working; the exit code tells.
    """

    subject: str
    text: str
    is_fault: bool = False


@click.command()
@click.option("--model", default=BUILTIN, show_default=True, help="Model to look at.")
@click.option("--generate", is_flag=True, help="Also load the model and generate a few tokens.")
def doctor(model: str, generate: bool) -> int:
    """Check this installation and its devices.

    Exit code 0 when everything works, 1 when something does not.
    """
    console = Console()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _packages,
        _devices,
        _memory,
        _compile_cache,
        lambda: _model(model, generate),
    ]
    is_healthy = True
    for check in checks:
        for finding in check():
            is_healthy &= not finding.is_fault
            mark = "[red]fault[/red]" if finding.is_fault else "[green]ok[/green]   "
            console.print(f"{mark} {finding.subject:<14}", end=" ")
            console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
    return 0 if is_healthy else 1


def _packages() -> Iterator[Finding]:
    yield Finding(
        subject="python", text=f"{platform.python_version()} on {platform.platform(terse=True)}"
    )
    needed = [one for one in requires("helium-jax") or () if ";" not in one]  # no extras
    found = []
    for name in ("helium-jax", *map(_name_of, needed)):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(
                subject=name,
                text="is not installed; run pip install helium-jax again",
                is_fault=True,
            )
    yield Finding(subject="packages", text=", ".join(found))


def _name_of(requirement: str) -> str:
    """The name in "jax<0.13,>=0.10.2"."""
    end = next((i for i, char in enumerate(requirement) if char in "<>=!~[ "), len(requirement))
    return requirement[:end]


def _devices() -> Iterator[Finding]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield Finding(subject="devices", text=f"JAX finds none: {error}", is_fault=True)
        return
    for device in devices:
        statistics = device.memory_stats() or {}
        limit = statistics.get("bytes_limit")
        memory = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        yield Finding(subject="device", text=f"{device.platform} {device.device_kind}{memory}")


def _memory() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(subject="host", text=f"{cores} cores, {total / 2**30:.1f} GiB of memory")


def _compile_cache() -> Iterator[Finding]:
    import jax

    from helium_jax.runtime import use_compile_cache

    use_compile_cache(None)
    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(nearest, os.W_OK):
        yield Finding(
            subject="compile cache",
            text=f"{nearest} cannot be written, so every start compiles anew; "
            "name another folder with --compile-cache",
            is_fault=True,
        )
        return
    files = [entry for entry in folder.glob("*") if entry.is_file()] if folder.exists() else []
    size = sum(entry.stat().st_size for entry in files)
    yield Finding(
        subject="compile cache", text=f"{folder}: {len(files)} files, {size / 2**20:.1f} MiB"
    )


def _model(model: str, generate: bool) -> Iterator[Finding]:
    from helium_jax.builtin import tiny_folder
    from helium_jax.models.checkpoint import open_weights, read_config
    from helium_jax.models.shapes import PREFIX
    from helium_jax.runtime import load_text_of, outline_engine

    try:
        load_text_of(model)
        text = "tokenizer"
        if not model.startswith(PREFIX):
            builtin = tiny_folder() if model == BUILTIN else contextlib.nullcontext(Path(model))
            with builtin as folder:
                config = read_config(folder)
                num_tensors = sum(len(file.entries) for file in open_weights(folder))
            text = f"{config.family}, {num_tensors} tensors, tokenizer"
        yield Finding(subject="model", text=f"{model}: {text}")
        outline = outline_engine(model)
        is_fault = outline.attention_fault is not None
        yield Finding(subject="attention", text=outline.attention, is_fault=is_fault)
        if generate:
            yield Finding(subject="generation", text=asyncio.run(_generate(model)))
    except (HeliumError, OSError, ValueError) as error:
        yield Finding(subject="model", text=f"{model}: {error}", is_fault=True)


async def _generate(model: str) -> str:
    """Loads the model with small buckets, which compile fast, and continues a sentence."""
    from helium_jax.config import EngineConfig
    from helium_jax.runtime import open_runtime
    from helium_jax.types import GenerateRequest, SamplingParams

    config = EngineConfig(max_num_seqs=2, max_num_batched_tokens=8)
    async with open_runtime(model, config) as runtime:
        ids = runtime.text.encode_chat([{"role": "user", "content": "Hello"}])
        request = GenerateRequest(
            request_id="doctor",
            token_ids=tuple(ids),
            sampling=SamplingParams(max_tokens=8, ignore_eos=True),
        )
        started = time.monotonic()
        events = [event async for event in runtime.generator.generate(request)]
        seconds = time.monotonic() - started
    num_tokens = sum(len(event.token_ids) for event in events)
    return f"{num_tokens} tokens in {seconds:.2f} s"
