"""transformers' continuous batching."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bench.driver import Adapter, Ended

# By name: a type checker would read for minutes what these two import.
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")


def open_adapter(model: str, options: dict[str, Any]) -> Adapter:
    """Options: `num_blocks`, `max_batch_tokens`, `threads`, `attention`."""
    return TransformersAdapter(model, options)


class TransformersAdapter:
    """The manager runs in its own thread; results come through its queue."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        if threads := options.get("threads"):
            torch.set_num_threads(threads)
        attention = options.get("attention", "sdpa")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation=attention
        )
        generation = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=1, eos_token_id=-1, pad_token_id=0
        )
        self._manager = loaded.eval().init_continuous_batching(
            generation_config=generation,
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                num_blocks=options.get("num_blocks", 1024),
                max_batch_tokens=options.get("max_batch_tokens", 512),
            ),
        )
        self._manager.start()
        self._keys: dict[str, int] = {}
        self._num_calls = 0

    def submit(self, key: int, prompt: Sequence[int], max_tokens: int) -> None:
        self._num_calls += 1
        name = f"bench-{self._num_calls}"
        self._keys[name] = key
        self._manager.add_request(list(prompt), request_id=name, max_new_tokens=max_tokens)

    def poll(self) -> list[Ended]:
        output = self._manager.get_result(timeout=600)
        if output is None or output.error:
            raise RuntimeError(f"transformers failed: {output.error if output else 'no result'}")
        if not output.is_finished():
            return []
        ids = list(output.generated_tokens)
        return [Ended(key=self._keys.pop(output.request_id), num_tokens=len(ids), ids=ids)]

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._manager.stop(block=True)
