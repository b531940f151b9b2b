"""Runs cases: every variant of a case in turn, round after round, on engines opened once."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from helium_jax.experiments.measure import (
    Measurement,
    Outputs,
    equal_outputs,
    measure,
    warm_up,
)
from helium_jax.experiments.setting import Engines
from helium_jax.experiments.variant import Variant
from helium_jax.experiments.workload import Workload
from helium_jax.runtime import Runtime, open_runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Variants compared on one workload.

    Attributes:
        table: the letter of the table it belongs to.
        name: of the case within the table: a workload, or what is varied.
        workload: what runs.
        engines: on what.
        variants: compared; the first runs all rows, and its outputs are compared with all.
        merge: whether equal greedy calls are made once, by every variant.
        repeats: rounds.
    """

    table: str
    name: str
    workload: Workload
    engines: Engines
    variants: tuple[Variant, ...]
    merge: bool
    repeats: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured run.

    Attributes:
        table, case, variant, merge: what ran; see `Case`.
        paper: which workload of the paper the case stands for.
        round: from 0.
        measured: what it cost.
        equal_outputs: share of outputs that are those of the variant that ran first.
        engines: on what.
        scale: of the lengths.
        start_s: opening the engines, compiling included; once for all cases on them.
    """

    table: str
    case: str
    variant: str
    merge: bool
    paper: str
    round: int
    measured: Measurement
    equal_outputs: float
    engines: Engines
    scale: float
    start_s: float

    def fields(self, where: dict[str, Any]) -> dict[str, Any]:
        """One JSON line; `where` are fields about the machine."""
        return {
            "subject": "workflows",
            "table": self.table,
            "case": self.case,
            "implementation": self.variant,
            "merge": self.merge,
            "round": self.round,
            **self.measured.fields(),
            "equal_outputs": self.equal_outputs,
            "model": self.engines.model,
            "kv_tokens": self.engines.kv_tokens,
            "num_workers": self.engines.num_workers,
            "scale": self.scale,
            "start_s": round(self.start_s, 1),
            **where,
        }


Opening = Callable[[Engines], AbstractAsyncContextManager[Runtime]]


def _open_silently(engines: Engines) -> AbstractAsyncContextManager[Runtime]:
    return open_runtime(engines.model, engines.config(), num_workers=engines.num_workers)


async def run_cases(
    cases: Sequence[Case], *, opening: Opening = _open_silently
) -> AsyncIterator[Record]:
    """Measures every case; those on equal engines follow each other, whatever their order.

    Args:
        cases: what to measure.
        opening: opens a runtime with such engines.
    """
    references: dict[tuple[str, str, bool], Outputs] = {}
    for engines in dict.fromkeys(case.engines for case in cases):
        started = time.perf_counter()
        async with opening(engines) as runtime:
            start_s = time.perf_counter() - started
            mine = [case for case in cases if case.engines == engines]
            warmed: Workload | None = None
            for case in mine:
                # Else the variant that goes first pays for all that is met for the first time.
                if case.workload is not warmed:
                    await warm_up(runtime, case.workload)
                    warmed = case.workload
                async for record in _run_case(runtime, case, start_s, references):
                    yield record


async def _run_case(
    runtime: Runtime,
    case: Case,
    start_s: float,
    references: dict[tuple[str, str, bool], Outputs],
) -> AsyncIterator[Record]:
    for number in range(case.repeats):
        # Every round begins with another variant: none is always the first or the last.
        first = number % len(case.variants)
        for variant in (*case.variants[first:], *case.variants[:first]):
            workload = case.workload.head(variant.num_rows)
            measured, outputs = await measure(runtime, workload, variant)
            reference = references.setdefault((case.table, case.name, case.merge), outputs)
            yield Record(
                table=case.table,
                case=case.name,
                variant=variant.name,
                merge=case.merge,
                paper=case.workload.name,
                round=number,
                measured=measured,
                equal_outputs=equal_outputs(outputs, reference),
                engines=case.engines,
                scale=case.workload.scale,
                start_s=start_s,
            )
