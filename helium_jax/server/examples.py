"""Bodies that work, for the description of the API: each shows what its route is for."""

from collections.abc import Mapping
from typing import Any

_ASKED = [{"role": "user", "content": "What is the capital of France?"}]
_PLAN = {
    "version": "helium/v1",
    "inputs": {"question": {"type": "text"}},
    "ops": {"answer": {"type": "llm.chat", "user": "{{question}}", "max_tokens": 16}},
    "outputs": {"answer": "answer"},
}
_ROWS = [{"question": "What is the capital of France?"}]

# By path; "model" stands for the one that is served.
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"model": "", "messages": _ASKED, "max_tokens": 16},
    "/v1/completions": {"model": "", "prompt": "The capital of France is", "max_tokens": 16},
    "/v1/responses": {"model": "", "input": _ASKED[0]["content"], "max_output_tokens": 16},
    "/v1/responses/input_tokens": {"model": "", "input": _ASKED[0]["content"]},
    "/v1/messages": {"model": "", "messages": _ASKED, "max_tokens": 16},
    "/v1/messages/count_tokens": {"model": "", "messages": _ASKED},
    "/v1/embeddings": {"model": "", "input": ["one text", "another"]},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [72, 105]},
    "/v1/plans": {"plan": _PLAN},
    "/v1/plans/explain": {"plan": _PLAN, "inputs": _ROWS},
    "/v1/runs": {"plan": _PLAN, "inputs": _ROWS},
    "/v1/cache/warm": {"text": "A long text with which many prompts begin."},
}
