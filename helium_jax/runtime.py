"""The composition root: the only file that sees both the plan side and the token side.

It turns a model's name and an `EngineConfig` into something that generates, and a text bundle that
speaks for it.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import jax

from helium_jax.builtin import TINY_NAME, tiny_folder
from helium_jax.config import (
    DeviceInfo,
    EngineConfig,
    ModelShape,
    ResolvedEngineConfig,
    resolve,
)
from helium_jax.engine import AsyncEngine, Engine, EnginePool, Loop, Progress, Runner
from helium_jax.engine.attention_choice import choose_attention
from helium_jax.engine.memory import MemoryUse
from helium_jax.errors import CapacityError, RequestError
from helium_jax.executor import Session
from helium_jax.executor.output_cache import DEFAULT_MAX_BYTES, OutputCache
from helium_jax.executor.profile_store import ProfileStore
from helium_jax.executor.rates import RateKeeper, RateStore
from helium_jax.kernels.pages import stored_head_size
from helium_jax.models.checkpoint import load_hf, read_config
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params, param_shapes
from helium_jax.models.quantize import quantize
from helium_jax.models.shapes import PREFIX, SHAPES, random_config, random_params
from helium_jax.text import TextModel, load_text
from helium_jax.types import Generator, ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A model ready to serve.

    Attributes:
        name: of the model, as clients call it.
        generator: the token side.
        text: the tokenizer, chat template and detokenizer that belong to it.
        memory: what all engines together take.
        free_bytes: memory that was left on their devices then.
    """

    name: str
    generator: Generator
    text: TextModel
    memory: MemoryUse = field(default_factory=MemoryUse)
    free_bytes: int = 0


class Speaks(Protocol):
    """What a session needs of a runtime; `Runtime` is one."""

    @property
    def generator(self) -> Generator: ...

    @property
    def text(self) -> TextModel: ...


@contextlib.asynccontextmanager
async def open_session(
    runtime: Speaks,
    state_dir: Path | None = None,
    *,
    output_cache_bytes: int = DEFAULT_MAX_BYTES,
    output_ttl_s: float | None = None,
    measures: bool = True,
) -> AsyncIterator[Session]:
    """Runs of plans over a runtime, with an output cache; both end with the context.

    Args:
        runtime: what generates.
        state_dir: a folder where finished outputs and profiles outlive the process; None keeps
            outputs in memory, and no profiles.
        output_cache_bytes: bound of the output cache; 0 for none.
        output_ttl_s: seconds after which an output is forgotten; None for never.
        measures: engines of unknown speed are measured for a part of a second before the first
            large run, to plan by what they are.

    Raises:
        RequestError: the folder cannot be made, or a bound is wrong.
    """
    cache, profiles, rates = None, None, None
    if state_dir is not None:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot use {str(state_dir)!r}: {error.strerror}") from None
        profiles = ProfileStore(state_dir / "profiles")
        rates = RateStore(state_dir / "rates")
    if output_cache_bytes:
        path = state_dir / "outputs.sqlite" if state_dir is not None else None
        cache = await asyncio.to_thread(
            OutputCache, max_bytes=output_cache_bytes, ttl_s=output_ttl_s, path=path
        )
    try:
        yield Session(
            runtime.generator,
            runtime.text,
            output_cache=cache,
            profiles=profiles,
            rates=RateKeeper(runtime.generator, store=rates, measures=measures),
        )
    finally:
        if cache is not None:
            try:
                closing = asyncio.get_running_loop().run_in_executor(None, cache.close)
            except RuntimeError:  # the interpreter ends, and its pools of threads have
                cache.close()
            else:
                await closing


@contextlib.asynccontextmanager
async def open_runtime(
    model: str = TINY_NAME,
    config: EngineConfig | None = None,
    *,
    name: str | None = None,
    num_workers: int = 1,
    progress: Progress | None = None,
) -> AsyncIterator[Runtime]:
    """Loads a model and starts engines for it; all end with the context.

    Args:
        model: "helium-tiny" (built in), a Hugging Face folder, or "random:<shape>".
        config: what the engine should be like; None leaves every choice to `resolve`.
        name: what clients call the model; by default the folder's name.
        num_workers: engines, each with KV pages, queue and thread of its own, dealt to the
            devices in turn. Those on one device share the weights and the compiled programs.
        progress: called while programs are compiled.

    A caller that is cancelled meanwhile waits for the programs that are being compiled; none is
    begun after them, and no thread is left.

    Raises:
        RequestError: the model or the configuration is wrong; names the file or the field.
    """
    name = name or default_name(model)
    text = load_text_of(model)
    await asyncio.to_thread(text.prepare_grammars)
    given_up = threading.Event()

    def report(count: int, total: int, program: str) -> None:
        if given_up.is_set():
            raise CapacityError("the engine ends before it has begun", code="shutting_down")
        if progress is not None:
            progress(count, total, program)

    uses: list[MemoryUse] = []
    make_loop = loop_factory(
        model,
        config or EngineConfig(),
        name,
        report,
        num_workers=num_workers,
        on_made=uses.append,
    )
    engines = [
        AsyncEngine(
            partial(make_loop, worker), name=f"helium-engine-{worker}", give_up=given_up.set
        )
        for worker in range(num_workers)
    ]
    generator = EnginePool(engines) if num_workers > 1 else engines[0]
    async with generator:
        yield Runtime(
            name=name,
            generator=generator,
            text=text,
            memory=sum(uses, MemoryUse()),
            free_bytes=await asyncio.to_thread(_free_bytes, num_workers),
        )


def open_engine(
    model: str = TINY_NAME,
    config: EngineConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Engine:
    """The same engine for programs without an event loop; close it, or use it as a context."""
    name = default_name(model)
    make_loop = loop_factory(model, config or EngineConfig(), name, progress, num_workers=1)
    return Engine(partial(make_loop, 0))


def default_name(model: str) -> str:
    """What a model is called when nobody says otherwise: its folder's name, or its shape."""
    return model if model == TINY_NAME or model.startswith(PREFIX) else Path(model).name


def load_text_of(model: str) -> TextModel:
    """The text bundle of a model; random shapes borrow the built-in byte-level tokenizer."""
    with _folder_of(TINY_NAME if model.startswith(PREFIX) else model) as folder:
        return load_text(folder)


def loop_factory(
    model: str,
    config: EngineConfig,
    name: str,
    progress: Progress | None,
    *,
    num_workers: int,
    on_made: Callable[[MemoryUse], None] = lambda use: None,
) -> Callable[[int], Loop]:
    """A function that makes the loop of a worker, called once for each on its own thread.

    The first call for a device loads the model and compiles; the others on that device wait for it
    and share what it has. `on_made` is told what each loop takes beside what it shares.

    Raises:
        RequestError: there cannot be so many workers.
    """
    if num_workers < 1:
        raise RequestError(f"{num_workers=} must be at least 1")
    first: dict[int, Loop] = {}
    gates = [threading.Lock() for _ in range(num_workers)]

    def make_loop(worker: int) -> Loop:
        place = worker % len(jax.local_devices())
        with gates[place]:
            if place in first:
                loop = first[place].replica()
                on_made(dataclasses.replace(loop.memory, weights=0))
                return loop
            with jax.default_device(jax.local_devices()[place]):
                loop = _load_loop(model, config, name, progress, place, num_workers)
            if num_workers > 1:
                first[place] = loop
            on_made(loop.memory)
            return loop

    return make_loop


def _load_loop(
    model: str,
    config: EngineConfig,
    name: str,
    progress: Progress | None,
    place: int,
    num_workers: int,
) -> Loop:
    """A loop on the default device, which is local device `place`."""
    source = _open_source(model)
    device = device_info(place)
    resolved = resolve(
        config,
        device,
        _shape_of(source.config, device.platform),
        num_workers=_num_sharing(num_workers),
    )
    use_compile_cache(resolved.compile_cache_dir)
    params, version = source.load(resolved.dtype)
    if resolved.quantization is not None:
        params = quantize(params)
    runner = Runner(params, source.config, resolved)
    runner.warm_up(progress)
    numerics = name_numerics(resolved, platform=device.platform, attention=runner.attention)
    info = _model_info(name, source.config, resolved, numerics, version=version)
    return Loop(runner, info, resolved)


def _model_info(
    name: str,
    model: ModelConfig,
    config: ResolvedEngineConfig,
    numerics: str,
    *,
    version: str | None = None,
) -> ModelInfo:
    speed_class = hashlib.blake2b(f"{model!r}/{numerics}".encode(), digest_size=12).hexdigest()
    return ModelInfo(
        name=name,
        vocab_size=model.vocab_size,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        eos_token_ids=frozenset(model.eos_token_ids),
        deterministic=config.deterministic,
        version="" if version is None else f"{version}/{numerics}",
        speed_class=speed_class,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOutline:
    """What an engine would be like, known without loading weights.

    Attributes:
        info: of the model; its version is empty, for that depends on the weights.
        page_size: tokens per KV page.
        num_pages: of each worker's pool.
        attention: the implementation of attention, and why it is that one.
        attention_fault: what a kernel made for the device did wrong in its self-check, if any.
    """

    info: ModelInfo
    page_size: int
    num_pages: int
    attention: str
    attention_fault: str | None = None


def outline_engine(
    model: str = TINY_NAME, config: EngineConfig | None = None, *, num_workers: int = 1
) -> EngineOutline:
    """What `open_runtime` would start, from the model's config and the device.

    Raises:
        RequestError: the model or the configuration is wrong; names the file or the field.
    """
    source = _open_source(model)
    device = device_info()
    resolved = resolve(
        config or EngineConfig(),
        device,
        _shape_of(source.config, device.platform),
        num_workers=_num_sharing(num_workers),
    )
    choice = choose_attention(jax.devices()[0], source.config, resolved)
    attention = choice.target.implementation
    numerics = name_numerics(resolved, platform=device.platform, attention=attention)
    info = _model_info(default_name(model), source.config, resolved, numerics)
    return EngineOutline(
        info=dataclasses.replace(info, num_workers=num_workers),
        page_size=resolved.page_size,
        num_pages=resolved.num_pages,
        attention=f"{attention}: {choice.reason}",
        attention_fault=choice.fault,
    )


def name_numerics(config: ResolvedEngineConfig, *, platform: str, attention: str = "xla") -> str:
    """How weights are computed with: whatever, beside them, may change an answer."""
    weights = config.quantization or "unquantized"
    return "/".join((platform, attention, config.dtype, config.kv_dtype, weights))


def _shape_of(model: ModelConfig, platform: str) -> ModelShape:
    heads = model.kv_elements_per_token // model.head_size
    order = "columns" if platform == "cpu" else "rows"  # that of kernels, though XLA may serve
    return ModelShape(
        max_position=model.max_position,
        kv_elements_per_token=heads * stored_head_size(model.head_size, order),
        kv_heads_per_token=heads,
        num_params=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(model))),
        dtype=model.dtype,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where a model comes from.

    Attributes:
        config: its architecture.
        load: (dtype) -> parameters on the device, and the version digest.
    """

    config: ModelConfig
    load: Callable[[str], tuple[Params, str]]


def _open_source(model: str) -> _Source:
    """Reads a model's config; the weights wait until their dtype is decided.

    Raises:
        RequestError: no such folder or shape, or a config this project cannot run.
    """
    if model.startswith(PREFIX):
        with _as_request_error():
            config = random_config(model)

        def load_random(dtype: str) -> tuple[Params, str]:
            return random_params(config, seed=0, dtype=dtype), f"{model}:{dtype}"

        return _Source(config=config, load=load_random)
    with _folder_of(model) as folder, _as_request_error():
        config = read_config(folder)

    def load_folder(dtype: str) -> tuple[Params, str]:
        with _folder_of(model) as folder, _as_request_error():
            loaded = load_hf(folder, dtype=dtype)
        return loaded.params, loaded.version

    return _Source(config=config, load=load_folder)


def _folder_of(model: str) -> contextlib.AbstractContextManager[Path]:
    """A model's folder, valid inside the `with`.

    Raises:
        RequestError: there is none.
    """
    if model == TINY_NAME:
        return tiny_folder()
    if not Path(model).is_dir():
        raise RequestError(
            f"model {model!r} is not a folder; name a Hugging Face folder, {TINY_NAME!r}, "
            f"or {PREFIX}<shape> with one of {', '.join(SHAPES)}",
            code="bad_model",
        )
    return contextlib.nullcontext(Path(model))


@contextlib.contextmanager
def _as_request_error() -> Iterator[None]:
    """A model folder that is wrong is the caller's to fix; the models package does not know us."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RequestError(str(error), code="bad_model") from error


def _num_sharing(num_workers: int) -> int:
    """Most workers on one device."""
    return -(-num_workers // len(jax.local_devices()))


def device_info(place: int = 0) -> DeviceInfo:
    """A local device and the memory on it that nobody uses yet."""
    device = jax.local_devices()[place]
    if device.platform == "cpu":
        return DeviceInfo(
            platform="cpu",
            memory_bytes=_host_memory_bytes(),
            has_bfloat16_units=_has_bfloat16_units(),
        )
    statistics = device.memory_stats() or {}
    free = statistics.get("bytes_limit", 0) - statistics.get("bytes_in_use", 0)
    return DeviceInfo(platform="tpu" if device.platform == "tpu" else "gpu", memory_bytes=free)


def _free_bytes(num_workers: int) -> int:
    """Memory that nobody uses on the devices of so many workers."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return _host_memory_bytes()
    return sum(device_info(place).memory_bytes for place in range(min(num_workers, len(devices))))


def _has_bfloat16_units() -> bool:
    """Whether Linux says that this CPU has AMX tiles for bfloat16."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()


def _host_memory_bytes() -> int:
    """Memory that could be used without swapping, or physical memory where that is unknown."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def use_compile_cache(folder: str | None) -> None:
    """Keeps compiled programs between runs; a choice the process made already is left alone.

    Both of JAX's thresholds go to zero: a small model's programs are below them, and they are what
    a first token waits for.

    Args:
        folder: where; "" for no cache, None for the user's cache folder.
    """
    if folder == "" or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if folder is None:
        cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(cache_home) / "helium-jax" / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
