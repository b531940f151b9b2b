"""A short measurement fits a roofline to an engine, and leaves it as it was."""

from helium_jax.config import EngineConfig
from helium_jax.executor.calibration import measure_roofline
from helium_jax.runtime import open_runtime
from helium_jax.schedule.step_work import StepWork
from helium_jax.testing import FakeGenerator


async def test_an_engine_is_measured_and_then_idle_again():
    # Of another test, so that its programs are compiled once.
    config = EngineConfig(
        max_num_seqs=2, max_num_batched_tokens=8, num_pages=16, max_model_len=128, page_size=16
    )
    async with open_runtime("helium-tiny", config) as runtime:
        roofline = await measure_roofline(runtime.generator)
        (statistics,) = runtime.generator.statistics()
    assert roofline is not None
    assert (statistics.num_running, statistics.num_waiting) == (0, 0)
    assert statistics.cache.num_pinned == statistics.cache.num_used == 0
    one, many = (
        StepWork(num_steps=n, prefill_tokens=0, decode_tokens=n, kv_tokens=8 * n, pair_tokens=0)
        for n in (1, 100)
    )
    assert 0.0 < roofline.seconds(one) < roofline.seconds(many)


async def test_an_engine_that_does_not_answer_has_no_roofline(caplog):
    engine = FakeGenerator()
    engine.kill(0)
    assert await measure_roofline(engine) is None
    assert "could not be measured" in caplog.text
