"""What is composed of a model and a configuration."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from helium_jax.config import DeviceInfo, EngineConfig, ModelShape, resolve
from helium_jax.errors import RequestError
from helium_jax.runtime import name_numerics, open_runtime
from helium_jax.types import GenerateRequest, SamplingParams, WarmPrefix

CPU = DeviceInfo(platform="cpu", memory_bytes=32 * 2**30)
SHAPE = ModelShape(max_position=256, kv_elements_per_token=1024, num_params=10**6)


@pytest.mark.parametrize(
    "options",
    [{"quantization": "int8"}, {"kv_dtype": "int8"}, {"kv_dtype": "fp8"}, {"dtype": "bfloat16"}],
)
def test_5_3_a_model_computed_in_another_way_has_another_version(options):
    versions = [
        name_numerics(resolve(config, CPU, SHAPE), platform="cpu")
        for config in (EngineConfig(), EngineConfig(**options))
    ]
    assert len(set(versions)) == 2
    assert all(version.startswith("cpu/") for version in versions)


async def test_two_workers_load_and_compile_once_and_answer_alike():
    config = EngineConfig(
        max_num_seqs=2, max_num_batched_tokens=8, num_pages=16, max_model_len=128, page_size=16
    )
    compiled = []
    async with open_runtime(
        config=config, num_workers=2, progress=lambda count, total, name: compiled.append(name)
    ) as runtime:
        generator = runtime.generator
        assert generator.info.num_workers == 2
        answers = []
        for worker in (0, 1):
            request = GenerateRequest(
                request_id=f"r{worker}",
                token_ids=tuple(range(40, 60)),
                sampling=SamplingParams(max_tokens=4, ignore_eos=True),
                worker=worker,
            )
            events = [event async for event in generator.generate(request)]
            answers.append([token for event in events for token in event.token_ids])
        receipt = await generator.warm(WarmPrefix(token_ids=tuple(range(40)), worker=1))
        statistics = generator.statistics()
    assert answers[0] == answers[1]
    assert len(set(compiled)) == len(compiled)
    assert [each.num_prefill_tokens for each in statistics] == [20, 20 + 32]
    assert receipt.worker == 1
    memory = runtime.memory
    assert min(memory.weights, memory.kv, memory.scratch, runtime.free_bytes) > 0
    assert memory.total == memory.weights + memory.kv + memory.scratch
    assert all(each.num_compiles_after_warmup == 0 for each in statistics)


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_a_start_that_is_cancelled_compiles_no_further_and_leaves_no_thread(num_workers):
    # Of another test, so that its programs are compiled once.
    config = EngineConfig(
        max_num_seqs=2, max_num_batched_tokens=8, num_pages=16, max_model_len=128, page_size=16
    )
    events, compiled = asyncio.get_running_loop(), []

    def cancel(count, total, name):
        compiled.append((count, total))
        events.call_soon_threadsafe(starting.cancel)
        told.wait(20)

    async def start():
        async with open_runtime(config=config, num_workers=num_workers, progress=cancel):
            raise AssertionError("it was cancelled before")

    told = threading.Event()  # the engine is, by then: the next report is the last
    events.call_later(1.0, told.set)
    before = {thread.ident for thread in threading.enumerate()}
    starting = asyncio.create_task(start())
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert 0 < len(compiled) < compiled[0][1]
    left = [t for t in threading.enumerate() if t.ident not in before]
    assert not [t for t in left if "helium-engine" in t.name or "ThreadPool" in t.name]


async def test_no_worker_is_refused():
    with pytest.raises(RequestError, match="num_workers=0 must be at least 1"):
        async with open_runtime(num_workers=0):
            pass


ON_TWO_DEVICES = """
import asyncio
import jax
from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from helium_jax.types import GenerateRequest, SamplingParams

async def main():
    config = EngineConfig(
        max_num_seqs=2, max_num_batched_tokens=8, num_pages=16, max_model_len=128, page_size=16
    )
    async with open_runtime(config=config, num_workers=3) as runtime:
        for worker in range(3):
            request = GenerateRequest(
                request_id=str(worker),
                token_ids=tuple(range(40, 60)),
                sampling=SamplingParams(max_tokens=4, ignore_eos=True, repetition_penalty=1.3),
                worker=worker,
            )
            print([t async for e in runtime.generator.generate(request) for t in e.token_ids])
        held = {}
        for array in jax.live_arrays():
            (device,) = array.devices()
            held[device.id] = held.get(device.id, 0) + array.nbytes
        print(held[0] > held[1] > 0.4 * held[0])
        print({one.num_compiles_after_warmup for one in runtime.generator.statistics()})

asyncio.run(main())
"""


@pytest.mark.slow
def test_workers_are_dealt_to_the_devices_in_turn(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES],
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third, is_dealt, compiles = run.stdout.splitlines()
    assert first == second == third
    assert (is_dealt, compiles) == ("True", "{0}")
