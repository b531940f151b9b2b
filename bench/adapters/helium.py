"""helium-jax's own engine."""

import queue
import threading
from collections.abc import Sequence
from typing import Any

from bench.driver import Adapter, Ended
from helium_jax.config import EngineConfig
from helium_jax.engine import Engine
from helium_jax.runtime import open_engine
from helium_jax.types import GenerateRequest, SamplingParams


def open_adapter(model: str, options: dict[str, Any]) -> Adapter:
    """Opens an engine; `options` are fields of EngineConfig."""
    return HeliumAdapter(open_engine(model, EngineConfig(**options)))


class HeliumAdapter:
    """One thread per running call reads its stream, as a program without an event loop would."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._ended: queue.SimpleQueue[Ended | Exception] = queue.SimpleQueue()
        self._num_calls = 0

    def submit(self, key: int, prompt: Sequence[int], max_tokens: int) -> None:
        self._num_calls += 1
        request = GenerateRequest(
            request_id=f"bench-{self._num_calls}",
            token_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=max_tokens, ignore_eos=True),
        )
        self.engine.submit(request)
        threading.Thread(target=self._read, args=(key, request.request_id), daemon=True).start()

    def poll(self) -> list[Ended]:
        ended = self._ended.get()
        if isinstance(ended, Exception):
            raise ended
        return [ended]

    def counters(self) -> dict[str, float]:
        statistics = self.engine.statistics()
        return {
            "steps": statistics.num_steps,
            "prefill_tokens": statistics.num_prefill_tokens,
            "decode_tokens": statistics.num_decode_tokens,
            "padded_tokens": statistics.num_padded_tokens,
            "preemptions": statistics.num_preemptions,
            "compiles_after_warmup": statistics.num_compiles_after_warmup,
            "host_s": statistics.host_seconds,
            "device_s": statistics.device_seconds,
            "hit_tokens": statistics.cache.hit_tokens,
        }

    def close(self) -> None:
        self.engine.close()

    def _read(self, key: int, request_id: str) -> None:
        try:
            ids = [i for event in self.engine.stream(request_id) for i in event.token_ids]
        except Exception as error:
            self._ended.put(error)
        else:
            self._ended.put(Ended(key=key, num_tokens=len(ids), ids=ids))
