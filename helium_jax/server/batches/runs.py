"""Lines of a batch run as rows of plans, among the server's other runs and behind them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from helium_jax.errors import CapacityError
from helium_jax.executor import RunOptions
from helium_jax.executor.events import OpAnswer, RowCompleted
from helium_jax.server.batches.line import BEHIND_OTHERS, PreparedLine, RowAnswer
from helium_jax.server.batches.rows import OPERATOR, RowKind, make_plan
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.openai.replies import HeliumUsage, PromptDetails, UsageReply
from helium_jax.server.plans.job import PlanJob
from helium_jax.server.runs.events import Told
from helium_jax.server.runs.record import RunRecord
from helium_jax.server.runs.service import RunService

MIN_ROWS = 2  # a line that nothing shares its settings with gains nothing from a plan
WEIGHT = 0.01  # of a batch's share of the engine beside other runs
# Answers that are cached must come as calls, whose ends and costs are told.
DISABLED_RULES = frozenset({"fetch_cached_outputs"})


def group_rows(lines: Iterable[PreparedLine]) -> list[list[PreparedLine]]:
    """Lines that can be rows of one plan; the others are in none.

    They are in the order of their texts, so that those that begin alike follow each other.
    """
    groups: dict[RowKind, list[tuple[tuple[str, ...], int, PreparedLine]]] = {}
    for line in lines:
        if line.row is not None:
            place = (line.row.texts, line.index, line)
            groups.setdefault(line.row.kind, []).append(place)
    return [
        [line for *_, line in sorted(group, key=lambda place: place[:2])]
        for group in groups.values()
        if len(group) >= MIN_ROWS
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRunner:
    """Runs groups of lines.

    Attributes:
        runs: whose runs they become.
        state: of the server: once it drains, nothing is waited for.
    """

    runs: RunService
    state: ServerState

    async def run(
        self,
        tenant: str,
        lines: Sequence[PreparedLine],
        *,
        on_started: Callable[[str], None],
        on_answer: Callable[[PreparedLine, Any], None],
    ) -> bool:
        """Runs lines of one kind; those that have no answer then failed, or the server ends.

        Args:
            tenant: whose batch.
            lines: of one kind.
            on_started: told the run's id.
            on_answer: called with each line that has an answer, and the endpoint's reply.

        Returns:
            Whether it may go on: False when somebody cancelled the run.
        """
        answers: dict[int, OpAnswer] = {}

        def on_told(told: Told) -> None:
            if isinstance(told, OpAnswer):
                answers[told.row] = told
            elif isinstance(told, RowCompleted):
                answer = answers.pop(told.result.row, None)
                text = told.result.outputs[OPERATOR]
                line = lines[told.result.row]
                if answer is not None and text is not None and line.write is not None:
                    on_answer(line, line.write(_row_answer(text, answer)))

        record = await self._submit(tenant, self._make_job(tenant, lines), on_told)
        if record is None:
            return True
        on_started(record.id)
        try:
            await self._wait(record)
        finally:
            record.on_told = None
            self.runs.cancel(record)  # has no effect on one that is over
        return record.state != "cancelled" or self.state.is_draining

    def _make_job(self, tenant: str, lines: Sequence[PreparedLine]) -> PlanJob:
        rows = [line.row for line in lines if line.row is not None]
        plan, values = make_plan(rows)
        kind = rows[0].kind
        return PlanJob(
            known=self.runs.plans.add(tenant, plan, (), now=self.runs.now()),
            plan=plan,
            rows=values,
            num_rows=len(values),
            params={},
            options=RunOptions(
                disabled_rules=DISABLED_RULES,
                cache_salt=kind.cache_salt,
                priority=kind.priority + BEHIND_OTHERS,
                weight=WEIGHT,
            ),
        )

    async def _submit(
        self, tenant: str, job: PlanJob, on_told: Callable[[Told], None]
    ) -> RunRecord | None:
        """The run, once there is room for it in the queue; None when the server ends before."""
        while not self.state.is_draining:
            try:
                return self.runs.submit(tenant, job, on_told=on_told)
            except CapacityError as error:
                await asyncio.sleep(error.retry_after_s)
        return None

    async def _wait(self, record: RunRecord) -> None:
        """Until the run is over; one that is going on while the server ends is cancelled."""
        waits = [
            asyncio.ensure_future(event.wait()) for event in (record.done, self.state.draining)
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not record.is_final:
                self.runs.cancel(record)
                await record.done.wait()
        finally:
            for wait in waits:
                wait.cancel()


def _row_answer(text: str, answer: OpAnswer) -> RowAnswer:
    usage = answer.usage
    prompt = usage.prompt_tokens
    result_cached = prompt if answer.source == "result" else 0
    kv_cached = 0 if result_cached else usage.kv_cached
    return RowAnswer(
        text=text,
        finish_reason=answer.finish_reason.value,
        usage=usage,
        usage_reply=UsageReply(
            prompt_tokens=prompt,
            completion_tokens=usage.completion_tokens,
            total_tokens=prompt + usage.completion_tokens,
            prompt_tokens_details=PromptDetails(cached_tokens=kv_cached + result_cached),
            helium=HeliumUsage(
                computed=prompt - kv_cached - result_cached,
                kv_cached=kv_cached,
                result_cached=result_cached,
            ),
        ),
    )
