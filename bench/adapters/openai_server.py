"""Any server of OpenAI's completions API, by URL: vLLM, llama.cpp, our own.

Prompts are sent as token ids. Outputs come back as ids where the server knows vLLM's
`return_token_ids`; where it does not, workflows cannot run on it and tokens are not compared.
"""

import json
import queue
import threading
import urllib.request
from collections.abc import Sequence
from typing import Any

from bench.driver import Adapter, Ended


def open_adapter(model: str, options: dict[str, Any]) -> Adapter:
    """Options: `url` up to and without /v1, `served_name`; `model` is not read."""
    return OpenAiAdapter(options["url"], options.get("served_name", "default"))


class OpenAiAdapter:
    """One thread and one connection per running call."""

    def __init__(self, url: str, served_name: str) -> None:
        self._url = url.rstrip("/") + "/v1/completions"
        self._served_name = served_name
        self._ended: queue.SimpleQueue[Ended | Exception] = queue.SimpleQueue()

    def submit(self, key: int, prompt: Sequence[int], max_tokens: int) -> None:
        body = {
            "model": self._served_name,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        threading.Thread(target=self._post, args=(key, body), daemon=True).start()

    def poll(self) -> list[Ended]:
        ended = self._ended.get()
        if isinstance(ended, Exception):
            raise ended
        return [ended]

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Nothing: the server is not ours."""

    def _post(self, key: int, body: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self._url,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=3600) as response:
                answer = json.load(response)
            num_tokens = answer["usage"]["completion_tokens"]
            ids = answer["choices"][0].get("token_ids")
            self._ended.put(Ended(key=key, num_tokens=num_tokens, ids=ids))
        except Exception as error:
            self._ended.put(error)
