"""`resolve` makes every choice, or says why it cannot."""

import dataclasses
import itertools

import pytest

from helium_jax.config import DeviceInfo, EngineConfig, ModelShape, resolve, token_buckets
from helium_jax.errors import RequestError

CPU = DeviceInfo(platform="cpu", memory_bytes=32 * 2**30)
GPU = DeviceInfo(platform="gpu", memory_bytes=80 * 2**30)
MODEL = ModelShape(max_position=2048, kv_elements_per_token=2 * 12 * 4 * 64, num_params=10**8)


def test_a_cpu_gets_float32_and_a_lone_row():
    config = resolve(EngineConfig(), CPU, MODEL)
    assert (config.dtype, config.kv_dtype) == ("float32", "float32")
    assert config.token_buckets[:3] == (1, 8, 16)
    assert config.token_buckets[-1] == config.max_num_batched_tokens
    assert config.num_pages == 2 * (2048 // 32) * 32  # no more than is useful


@pytest.mark.parametrize(
    ("has_units", "checkpoint", "expected"),
    [
        (True, "bfloat16", "bfloat16"),
        (True, "float32", "float32"),
        (False, "bfloat16", "float32"),
    ],
)
def test_bfloat16_on_a_cpu_needs_units_and_a_checkpoint_for_it(has_units, checkpoint, expected):
    device = dataclasses.replace(CPU, has_bfloat16_units=has_units)
    model = dataclasses.replace(MODEL, dtype=checkpoint)
    assert resolve(EngineConfig(), device, model).dtype == expected


@pytest.mark.parametrize(
    "options", [{"deterministic": True}, {"dtype": "bfloat16"}, {"quantization": "int8"}]
)
def test_a_lone_row_is_for_plain_float32_only(options):
    assert resolve(EngineConfig(**options), CPU, MODEL).token_buckets[0] == 8


def test_deterministic_mode_reads_no_prefix_groups():
    assert resolve(EngineConfig(), CPU, MODEL).cascade
    assert not resolve(EngineConfig(deterministic=True), CPU, MODEL).cascade


def test_a_gpu_fills_its_memory_with_pages():
    config = resolve(EngineConfig(), GPU, MODEL)
    page_bytes = MODEL.kv_elements_per_token * 2 * config.page_size
    assert config.num_pages == (int(GPU.memory_bytes * 0.9) - 2 * 10**8) // page_bytes
    assert config.steps_in_flight == 2


def test_workers_share_what_the_weights_leave():
    one, two = (resolve(EngineConfig(), GPU, MODEL, num_workers=count) for count in (1, 2))
    assert two.num_pages == one.num_pages // 2


@pytest.mark.parametrize(("kv_dtype", "elements"), [("int8", "int8"), ("fp8", "float8_e4m3fn")])
def test_a_quantized_pool_has_nearly_twice_the_pages_of_bfloat16(kv_dtype, elements):
    shape = dataclasses.replace(MODEL, kv_heads_per_token=2 * 12 * 4)
    memory = 2**30
    half, small = (
        resolve(EngineConfig(kv_dtype=name, kv_memory_bytes=memory), GPU, shape)
        for name in ("bfloat16", kv_dtype)
    )
    assert small.kv_dtype == elements
    assert small.num_pages / half.num_pages == pytest.approx(2 * 64 / (64 + 4), rel=1e-3)


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 8, 9, 64, 200, 512, 700, 8192])
def test_buckets_ascend_to_the_budget(max_tokens):
    buckets = token_buckets(max_tokens)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == max(max_tokens, 2)
    assert all(b <= 2 * a for a, b in itertools.pairwise(buckets))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype='int4' is unknown"),
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
        ({"kv_dtype": "int4"}, "kv_dtype='int4' is unknown; choose one of .*'int8', 'fp8'"),
        ({"quantization": "int3"}, "quantization='int3' is unknown"),
        ({"attention": "flash"}, "attention='flash' is unknown; choose one of .'xla'"),
        ({"page_size": 24}, "page_size=24 must be a power of two"),
        ({"max_model_len": 4096}, "max_model_len=4096 must be between 2 and .* 2048"),
        ({"max_num_seqs": 0}, "max_num_seqs=0"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "max_num_batched_tokens=32"),
        ({"steps_in_flight": 3}, "steps_in_flight=3"),
        ({"kv_memory_bytes": 1000}, "num_pages=0 is too small"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, message):
    with pytest.raises(RequestError, match=message):
        resolve(EngineConfig(**options), CPU, MODEL)
