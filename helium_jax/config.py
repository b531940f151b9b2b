"""Configuration: frozen, read once at the edge, resolved once.

`EngineConfig` holds what a person may ask for (None means "choose for me"); `resolve` turns it
into `ResolvedEngineConfig`, in which every choice is made, from the model's shape and the device.
Nobody else reads the environment and nobody changes a config later.
"""

from dataclasses import dataclass

from helium_jax.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the user asked of one engine; None lets `resolve` choose.

    Attributes:
        dtype: "float32", "bfloat16" or "float16": of weights and activations. Defaults to
            bfloat16, on CPUs to float32 unless checkpoint and CPU are both made for bfloat16.
        kv_dtype: of the KV pool; defaults to `dtype`. "int8" and "fp8" take about half of
            bfloat16's memory, with a scale for every token and head.
        quantization: None, or "int8": weights in int8 with dynamic int8 activations.
        attention: None takes the kernel made for the device and shapes if it passes its self-check,
            else XLA's path; or the name of one of ATTENTION, which then must work.
        page_size: tokens per KV page, a power of two from 16 to 256.
        num_pages: pages of the pool; defaults to what `kv_memory_bytes` holds. Each worker has one.
        kv_memory_bytes: memory for the pool.
        max_model_len: most tokens of prompt plus output; defaults to the model's own limit.
        max_num_seqs: most sequences in one step.
        max_num_batched_tokens: most tokens in one step.
        max_waiting_requests: longest queue; more are refused with CapacityError.
        max_waiting_tokens: most prompt tokens in the queue.
        watermark: fraction of pages kept free when admitting new sequences.
        pin_budget: largest fraction of pages that may be pinned.
        prefix_caching: share KV pages between equal prefixes.
        cascade: read a prefix shared by several sequences of a step once.
        deterministic: same request, same bits, whatever else runs.
        steps_in_flight: steps dispatched before the results of the first are read, 1 or 2.
        compile_cache_dir: folder of compiled programs; "" turns the persistent cache off.
        seed: of the sampling seeds drawn for requests that bring none.
    """

    dtype: str | None = None
    kv_dtype: str | None = None
    quantization: str | None = None
    attention: str | None = None
    page_size: int | None = None
    num_pages: int | None = None
    kv_memory_bytes: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_waiting_requests: int = 4096
    max_waiting_tokens: int = 16_777_216
    watermark: float = 0.01
    pin_budget: float = 0.5
    prefix_caching: bool = True
    cascade: bool = True
    deterministic: bool = False
    steps_in_flight: int | None = None
    compile_cache_dir: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What `resolve` must know of the machine.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        memory_bytes: free memory that weights, pool and temporaries share.
        has_bfloat16_units: a CPU that multiplies bfloat16 in hardware: there it is 2-3x faster
            than float32 from 8 rows on; elsewhere it is slower.
    """

    platform: str
    memory_bytes: int
    has_bfloat16_units: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What `resolve` must know of the model.

    Attributes:
        max_position: most positions the model was made for.
        kv_elements_per_token: of K and V of one token over all layers, as the device stores them.
        kv_heads_per_token: heads of K and V over all layers, each with a scale where quantized.
        num_params: of all weights.
        dtype: of the checkpoint.
    """

    max_position: int
    kv_elements_per_token: int
    num_params: int
    kv_heads_per_token: int = 0
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedEngineConfig:
    """Every choice made; see EngineConfig for the fields both have.

    Attributes:
        token_buckets: sizes a step's tokens are padded to, ascending.
    """

    dtype: str
    kv_dtype: str
    quantization: str | None
    attention: str | None
    page_size: int
    num_pages: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_waiting_requests: int
    max_waiting_tokens: int
    watermark: float
    pin_budget: float
    prefix_caching: bool
    cascade: bool
    deterministic: bool
    steps_in_flight: int
    compile_cache_dir: str | None
    seed: int | None
    token_buckets: tuple[int, ...]


# Implementations of attention that may be asked for by name.
ATTENTION = ("xla", "mosaic_gpu", "mosaic_tpu", "reference")
_WIDTH_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Of the pool only; the names that people use, and those of the elements.
_QUANTIZED = {"int8": "int8", "fp8": "float8_e4m3fn"}
_SCALE_BYTES = 4
_DEFAULTS = {
    # platform: (page_size, max_num_seqs, max_num_batched_tokens, steps_in_flight)
    "cpu": (32, 32, 512, 1),
    "gpu": (64, 256, 8192, 2),
    "tpu": (64, 256, 8192, 2),
}


def resolve(
    config: EngineConfig, device: DeviceInfo, model: ModelShape, *, num_workers: int = 1
) -> ResolvedEngineConfig:
    """Makes every choice that `config` leaves open.

    Args:
        config: what was asked for.
        device: to run on.
        model: to run.
        num_workers: engines that share the device and one copy of the weights.

    Raises:
        RequestError: a value is out of its range, or the pool cannot hold one sequence.
    """
    page_size, max_num_seqs, max_tokens, steps_in_flight = _DEFAULTS[device.platform]
    dtype = config.dtype or _default_dtype(device, model)
    kv_dtype = config.kv_dtype or dtype
    known = [*_WIDTH_BYTES]
    for name, value, choices in (
        ("dtype", dtype, known),
        ("kv_dtype", kv_dtype, [*known, *_QUANTIZED]),
    ):
        if value not in choices:
            raise RequestError(f"{name}={value!r} is unknown; choose one of {choices}")
    if config.quantization not in (None, "int8"):
        raise RequestError(f"quantization={config.quantization!r} is unknown; choose int8 or none")
    if config.attention is not None and config.attention not in ATTENTION:
        raise RequestError(
            f"attention={config.attention!r} is unknown; choose one of {[*ATTENTION]}, or none"
        )
    page_size = _given(config.page_size, page_size)
    if page_size & (page_size - 1) or not 16 <= page_size <= 256:
        raise RequestError(f"{page_size=} must be a power of two from 16 to 256")
    max_model_len = _given(config.max_model_len, model.max_position)
    if not 1 < max_model_len <= model.max_position:
        raise RequestError(
            f"{max_model_len=} must be between 2 and the model's own limit {model.max_position}"
        )
    max_num_seqs = _given(config.max_num_seqs, max_num_seqs)
    max_tokens = _given(config.max_num_batched_tokens, max_tokens)
    steps_in_flight = _given(config.steps_in_flight, steps_in_flight)
    if num_workers < 1:
        raise RequestError(f"{num_workers=} must be at least 1")
    if max_num_seqs < 1:
        raise RequestError(f"{max_num_seqs=} must be at least 1")
    if max_tokens < max_num_seqs:
        raise RequestError(
            f"max_num_batched_tokens={max_tokens} must be at least {max_num_seqs=}, "
            "or a step could not decode every running sequence"
        )
    if steps_in_flight not in (1, 2):
        raise RequestError(f"{steps_in_flight=} must be 1 or 2")
    page_bytes = model.kv_elements_per_token * _WIDTH_BYTES.get(kv_dtype, 1) * page_size
    if kv_dtype in _QUANTIZED:
        # TPUs give the scales of a page whole registers of 128.
        num_scales = max(page_size, 128) if device.platform == "tpu" else page_size
        page_bytes += model.kv_heads_per_token * _SCALE_BYTES * num_scales
    params_bytes = model.num_params * (1 if config.quantization else _WIDTH_BYTES[dtype])
    num_pages = _given(
        config.num_pages,
        _default_num_pages(
            config.kv_memory_bytes,
            device,
            num_workers=num_workers,
            params_bytes=params_bytes,
            page_bytes=page_bytes,
            useful_pages=2 * -(-max_model_len // page_size) * max_num_seqs,
        ),
    )
    if num_pages < 2:
        raise RequestError(
            f"{num_pages=} is too small; a page takes {page_bytes} bytes, "
            "raise --num-pages or --kv-memory"
        )
    return ResolvedEngineConfig(
        dtype=dtype,
        kv_dtype=_QUANTIZED.get(kv_dtype, kv_dtype),
        quantization=config.quantization,
        attention=config.attention,
        page_size=page_size,
        num_pages=num_pages,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_tokens,
        max_waiting_requests=config.max_waiting_requests,
        max_waiting_tokens=config.max_waiting_tokens,
        watermark=config.watermark,
        pin_budget=config.pin_budget,
        prefix_caching=config.prefix_caching,
        cascade=config.cascade and not config.deterministic,
        deterministic=config.deterministic,
        steps_in_flight=steps_in_flight,
        compile_cache_dir=config.compile_cache_dir,
        seed=config.seed,
        token_buckets=token_buckets(
            max_tokens,
            lone_row=device.platform == "cpu"
            and dtype == "float32"
            and config.quantization is None
            and not config.deterministic,
        ),
    )


def _given(value: int | None, default: int) -> int:
    """Zero is a value, and a wrong one: it must not silently become the default."""
    return default if value is None else value


def _default_dtype(device: DeviceInfo, model: ModelShape) -> str:
    if device.platform != "cpu":
        return "bfloat16"
    is_fast = device.has_bfloat16_units and model.dtype == "bfloat16"
    return "bfloat16" if is_fast else "float32"


def _default_num_pages(
    kv_memory_bytes: int | None,
    device: DeviceInfo,
    *,
    num_workers: int,
    params_bytes: int,
    page_bytes: int,
    useful_pages: int,
) -> int:
    """Pages that fit: on accelerators most of what is left, on CPUs no more than is useful."""
    if kv_memory_bytes is not None:
        return kv_memory_bytes // page_bytes
    if device.platform == "cpu":
        room = int((device.memory_bytes - params_bytes) * 0.25) // num_workers
        return max(min(room // page_bytes, useful_pages), 1)
    return max((int(device.memory_bytes * 0.9) - params_bytes) // num_workers // page_bytes, 1)


def token_buckets(max_tokens: int, *, lone_row: bool = False) -> tuple[int, ...]:
    """Step sizes up to `max_tokens`: 8, powers of two, and from 192 on three quarters of them.

    Products of 2 to 8 rows cost the same on every backend measured, so nothing smaller pays, but
    for one: a single float32 row on a CPU is a matrix-vector product, at twice the speed.

    Args:
        max_tokens: the last bucket.
        lone_row: add a bucket of one token, whose bits differ from those of a row in company.
    """
    sizes = [1] if lone_row else []
    size = 8
    while size < max_tokens:
        if size >= 256:
            sizes.append(size * 3 // 4)
        sizes.append(size)
        size *= 2
    if size >= 256 and size * 3 // 4 < max_tokens:
        sizes.append(size * 3 // 4)
    return (*sizes, max(max_tokens, 2))
