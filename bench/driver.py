"""Runs a workload on any engine: submits calls when their inputs are there, collects outputs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.workloads import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A call that ended.

    Attributes:
        key: of the call.
        num_tokens: tokens it generated.
        ids: they themselves; None where the engine does not tell.
    """

    key: int
    num_tokens: int
    ids: list[int] | None


class Adapter(Protocol):
    """An engine as the driver sees it; one thread uses it. Greedy, end-of-sequence ignored."""

    def submit(self, key: int, prompt: Sequence[int], max_tokens: int) -> None: ...

    def poll(self) -> list[Ended]:
        """Waits for progress; returns the calls that ended since."""
        ...

    def counters(self) -> dict[str, float]:
        """Growing counters worth recording per run, if the engine has any."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a workload.

    Attributes:
        wall_s: from the first submission to the last token.
        outputs: generated ids by call, None where the engine does not tell.
        counters: how far the engine's own counters moved.
    """

    wall_s: float
    outputs: dict[int, list[int] | None]
    counters: dict[str, float]


def run_calls(adapter: Adapter, calls: Sequence[Call]) -> Run:
    """Executes the calls, each as soon as those it comes after have ended.

    Raises:
        RuntimeError: a call ended early, or outputs are needed that the engine does not tell:
            it cannot be compared.
    """
    max_tokens = {call.key: call.max_tokens for call in calls}
    outputs: dict[int, list[int] | None] = {}
    waiting = list(calls)
    before = adapter.counters()
    start = time.perf_counter()
    waiting = _submit_ready(adapter, waiting, outputs)
    while len(outputs) < len(calls):
        ended = adapter.poll()
        for call in ended:
            if call.num_tokens != max_tokens[call.key]:
                raise RuntimeError(
                    f"call {call.key} ended after {call.num_tokens} of {max_tokens[call.key]} "
                    "tokens, so the implementations would not do the same work"
                )
            outputs[call.key] = call.ids
        if ended and waiting:
            waiting = _submit_ready(adapter, waiting, outputs)
    wall_s = time.perf_counter() - start
    after = adapter.counters()
    moved = {name: after[name] - before[name] for name in after}
    return Run(wall_s=wall_s, outputs=outputs, counters=moved)


def _submit_ready(
    adapter: Adapter, waiting: list[Call], outputs: dict[int, list[int] | None]
) -> list[Call]:
    """Submits the calls whose inputs are there; returns the others."""
    still_waiting = []
    for call in waiting:
        if not all(key in outputs for key in call.after):
            still_waiting.append(call)
            continue
        prompt = list(call.prompt)
        for key in call.after:
            ids = outputs[key]
            if ids is None:
                raise RuntimeError("this engine tells no token ids, which a workflow needs")
            prompt += ids
        adapter.submit(call.key, prompt, call.max_tokens)
    return still_waiting
