"""OpenVINO GenAI's continuous batching, offline; runs in whatever environment has the package.

The model folder must hold an exported `openvino_model.xml`: see bench/README.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino  # pyright: ignore[reportMissingImports]  # lives in an environment of its own
import openvino_genai  # pyright: ignore[reportMissingImports]

from bench.driver import Adapter, Ended


def open_adapter(model: str, options: dict[str, Any]) -> Adapter:
    """Options: `cache_gib`, `max_num_batched_tokens`, `dynamic_split_fuse`, and `properties` of
    the device."""
    return OpenVinoAdapter(model, options)


class OpenVinoAdapter:
    """Steps the pipeline itself, so nothing but the pipeline takes time."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = options.get("cache_gib", 2)
        scheduler.max_num_batched_tokens = options.get("max_num_batched_tokens", 512)
        scheduler.dynamic_split_fuse = options.get("dynamic_split_fuse", True)
        scheduler.enable_prefix_caching = True
        # In float32 throughout, as the others: by default the cache is quantized.
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            **options.get("properties", {}),
        }
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            model, scheduler, "CPU", properties
        )
        self._handles: dict[int, Any] = {}
        self._num_calls = 0

    def submit(self, key: int, prompt: Sequence[int], max_tokens: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        self._num_calls += 1
        ids = openvino.Tensor(np.array([prompt], np.int64))
        self._handles[key] = self._pipeline.add_request(self._num_calls, ids, config)

    def poll(self) -> list[Ended]:
        self._pipeline.step()
        finished = openvino_genai.GenerationStatus.FINISHED
        ended = [key for key, handle in self._handles.items() if handle.get_status() == finished]
        return [self._end(key) for key in ended]

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        del self._pipeline

    def _end(self, key: int) -> Ended:
        ids = list(self._handles.pop(key).read_all()[0].generated_ids)
        return Ended(key=key, num_tokens=len(ids), ids=ids)
