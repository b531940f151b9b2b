"""What is composed of a model and a configuration, without building an engine."""

import pytest

from helium_jax.config import DeviceInfo, EngineConfig, ModelShape, resolve
from helium_jax.runtime import name_numerics

CPU = DeviceInfo(platform="cpu", memory_bytes=32 * 2**30)
SHAPE = ModelShape(max_position=256, kv_elements_per_token=1024, num_params=10**6)


@pytest.mark.parametrize("options", [{"quantization": "int8"}, {"kv_dtype": "bfloat16"}])
def test_5_3_a_model_computed_in_another_way_has_another_version(options):
    versions = [
        name_numerics("weights", resolve(config, CPU, SHAPE))
        for config in (EngineConfig(), EngineConfig(**options))
    ]
    assert len(set(versions)) == 2
    assert all(version.startswith("weights/") for version in versions)
