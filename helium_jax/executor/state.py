"""One run as a state machine without I/O: events in, instructions out.

Data flows row by row: a row's call is ready as soon as its own inputs are there, whatever the
other rows do. Ready calls go out at once while there is room; otherwise the most urgent first, then
the lowest row, so that rows finish early and a row's calls follow each other while the KV pages of
its prompts are still in the store.
"""

import hashlib
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from helium_jax.executor.budget import Budget
from helium_jax.executor.events import (
    Call,
    CallEncoded,
    CallFailed,
    CallFinished,
    CallProgressed,
    CallSource,
    CancelCall,
    CancelRequested,
    DeadlinePassed,
    EncodeCall,
    Event,
    Instruction,
    OpCompleted,
    OpProgress,
    OpRow,
    OpStarted,
    Progress,
    Report,
    RunCompleted,
    RunStarted,
    SubmitCall,
)
from helium_jax.executor.result import OperatorStatistics, RowError, RowResult, RunStatus
from helium_jax.executor.tally import Tally
from helium_jax.physical import Apply, Generate, PhysicalPlan
from helium_jax.plan import CallSettings, Slot, Text
from helium_jax.plan.limits import MAX_VALUE_CHARS
from helium_jax.types import Usage

_WAITING, _DONE, _FAILED = range(3)
Place = tuple[str, int]  # an operator's value for a row


@dataclass(slots=True)
class _Flight:
    """A call on its way: its own place, and those that wait for the same answer."""

    call: Call
    key: bytes | None
    followers: list[Place] = field(default_factory=list)
    num_tokens: int = 0


class RunState:
    """Progress of one run; changes only through `handle`."""

    def __init__(
        self,
        plan: PhysicalPlan,
        num_rows: int,
        columns: Mapping[str, Sequence[str]],
        *,
        max_in_flight: int,
        single_flight: bool = True,
    ) -> None:
        """
        Args:
            plan: what to do for each row.
            num_rows: rows of the batch.
            columns: values of every operator that needs no work; see `rows.bind_rows`.
            max_in_flight: most calls on their way at once.
            single_flight: make equal deterministic calls once.
        """
        self._plan = plan
        self._num_rows = num_rows
        self._max_in_flight = max_in_flight
        self._single_flight = single_flight
        self._steps = {op.name: op for op in plan.operators if isinstance(op, Apply | Generate)}
        self._names = [*self._steps]
        self._place = {name: index for index, name in enumerate(self._names)}
        self._values: dict[str, list[str | None]] = {
            op.name: list(columns[op.name]) if op.name in columns else [None] * num_rows
            for op in plan.operators
        }
        self._states = {name: bytearray(num_rows) for name in self._steps}
        self._missing = {name: [self._needs_steps(name)] * num_rows for name in self._steps}
        self._num_open = len(self._steps) * num_rows
        self._ready: list[tuple[int, int, int]] = []  # priority, row, place of the operator
        self._flights: dict[int, _Flight] = {}
        self._leaders: dict[bytes, int] = {}  # key of a call on its way -> its id
        self._answers: dict[bytes, tuple[Place, int]] = {}  # -> its place and prompt tokens
        self._held: list[int] = []  # encoded calls that wait for others' unused tokens
        self._call_ids = itertools.count()
        self._budget = Budget(plan.limits)
        self._tallies = {op.name: Tally(op.name, num_rows) for op in plan.calls}
        self._errors: dict[int, list[RowError]] = {}
        self._out: list[Instruction] = []
        self.status: RunStatus | None = None

    def handle(self, event: Event) -> list[Instruction]:
        """Takes note of an event; returns what is to be done now, in order.

        Events of calls that are no longer wanted, and events after the end, have no effect.
        """
        if self.status is None:
            match event:
                case RunStarted():
                    self._start()
                case CallEncoded(call_id=call_id, num_tokens=num_tokens):
                    self._on_encoded(call_id, num_tokens)
                case CallProgressed(call_id=call_id, num_tokens=num_tokens):
                    self._on_progressed(call_id, num_tokens)
                case CallFinished(call_id=call_id, text=text, usage=usage):
                    self._on_finished(call_id, text, usage)
                case CallFailed(call_id=call_id, code=code, message=message):
                    self._on_failed(call_id, code, message)
                case CancelRequested():
                    self._end("cancelled", "cancelled", "the run was cancelled")
                case DeadlinePassed():
                    message = f"the run's timeout of {self._plan.limits.timeout_s:g} s is over"
                    self._end("expired", "deadline_exceeded", message)
            self._release()
            if self.status is None and self._num_open == 0:
                self._end("completed", "", "")
        out, self._out = self._out, []
        return out

    def statistics(self) -> tuple[OperatorStatistics, ...]:
        """What every calling operator did so far."""
        return tuple(tally.freeze() for tally in self._tallies.values())

    def results(self) -> Iterator[RowResult]:
        """Outputs and errors of every row, as far as they are known."""
        for row in range(self._num_rows):
            outputs = {name: self._values[source][row] for name, source in self._plan.outputs}
            yield RowResult(row=row, outputs=outputs, errors=tuple(self._errors.get(row, ())))

    # --- beginnings ------------------------------------------------------------------------

    def _start(self) -> None:
        # Decided beforehand: an operator that becomes ready by another one's text is not a root.
        roots = [name for name in self._steps if not self._needs_steps(name)]
        for row in range(self._num_rows):
            for name in roots:
                if self.status is None:
                    self._make_ready(name, row)

    def _needs_steps(self, name: str) -> int:
        return sum(need in self._steps for need in self._plan.needs[name])

    def _make_ready(self, name: str, row: int) -> None:
        step = self._steps[name]
        if isinstance(step, Apply):
            text = self._render(step.text, row)
            if text is None:
                self._fail(name, row, "value_too_large", _TOO_LARGE)
            else:
                self._complete(name, row, text)
        else:
            heapq.heappush(self._ready, (step.settings.priority, row, self._place[name]))

    def _release(self) -> None:
        while self.status is None and self._ready and len(self._flights) < self._max_in_flight:
            _, row, place = heapq.heappop(self._ready)
            step = self._steps[self._names[place]]
            assert isinstance(step, Generate)
            self._begin(step, row)

    def _begin(self, step: Generate, row: int) -> None:
        turns = []
        for turn in step.turns:
            text = self._render(turn.content, row)
            if text is None:
                self._fail(step.name, row, "value_too_large", _TOO_LARGE)
                return
            turns.append((turn.role, text))
        key = self._key(tuple(turns), step.settings)
        if key is not None and key in self._answers:
            (leader, leader_row), num_tokens = self._answers[key]
            text = self._values[leader][leader_row]
            assert text is not None
            self._serve(step.name, row, text, num_tokens)
            return
        if key is not None and key in self._leaders:
            self._flights[self._leaders[key]].followers.append((step.name, row))
            return
        fault = self._budget.start_call()
        if fault is not None:
            self._fail(step.name, row, "limit_exceeded", fault)
            return
        call = Call(
            call_id=next(self._call_ids),
            operator=step.name,
            row=row,
            turns=tuple(turns),
            settings=step.settings,
        )
        self._flights[call.call_id] = _Flight(call=call, key=key)
        if key is not None:
            self._leaders[key] = call.call_id
        self._out.append(EncodeCall(call=call))

    def _key(
        self, turns: tuple[tuple[str | None, str], ...], settings: CallSettings
    ) -> bytes | None:
        """Equal keys mean equal answers; None for a call that must be made on its own."""
        is_shared = self._single_flight and settings.cache.results
        if not is_shared or not settings.sampling.is_deterministic:
            return None
        spelled = repr((turns, settings.sampling, settings.stop))
        # Texts may hold lone surrogates, which have no UTF-8.
        return hashlib.blake2b(spelled.encode("utf-8", "surrogatepass"), digest_size=20).digest()

    # --- calls -----------------------------------------------------------------------------

    def _on_encoded(self, call_id: int, num_tokens: int) -> None:
        if call_id in self._flights:
            self._budget.prepare(
                call_id, num_tokens, self._flights[call_id].call.settings.sampling.max_tokens
            )
            self._held.append(call_id)
            self._submit_held()

    def _submit_held(self) -> None:
        """Submits what the token limit allows; fails what it can never allow."""
        held, self._held = self._held, []
        for call_id in held:
            if call_id not in self._flights:
                continue
            fault = self._budget.submit(call_id)
            if fault is None:
                self._submit(call_id)
            elif self._budget.is_idle:
                self._drop(call_id, "limit_exceeded", fault)
            else:
                self._held.append(call_id)

    def _submit(self, call_id: int) -> None:
        operator = self._flights[call_id].call.operator
        tally = self._tallies[operator]
        if tally.num_calls == 0:
            self._report(OpStarted(operator=operator, num_rows=self._num_rows))
        tally.num_calls += 1
        self._out.append(SubmitCall(call_id=call_id))

    def _on_progressed(self, call_id: int, num_tokens: int) -> None:
        flight = self._flights.get(call_id)
        if flight is not None:
            flight.num_tokens += num_tokens
            tally = self._tallies[flight.call.operator]
            tally.completion_tokens += num_tokens
            self._report(OpProgress(statistics=tally.freeze()))

    def _on_finished(self, call_id: int, text: str, usage: Usage) -> None:
        flight = self._flights.pop(call_id, None)
        if flight is None:
            return
        call = flight.call
        tally = self._tallies[call.operator]
        tally.prompt_tokens += usage.prompt_tokens
        tally.kv_cached += usage.kv_cached
        tally.completion_tokens += usage.completion_tokens - flight.num_tokens
        self._budget.finish(call_id, usage.prompt_tokens + usage.completion_tokens)
        if flight.key is not None:
            del self._leaders[flight.key]
            self._answers[flight.key] = ((call.operator, call.row), usage.prompt_tokens)
        self._complete(call.operator, call.row, text, "kv" if usage.kv_cached else "computed")
        for name, row in flight.followers:
            if self.status is None:
                self._serve(name, row, text, usage.prompt_tokens)
        self._submit_held()

    def _on_failed(self, call_id: int, code: str, message: str) -> None:
        self._drop(call_id, code, message)
        self._submit_held()

    def _drop(self, call_id: int, code: str, message: str) -> None:
        """Ends a call without an answer, for its own row and for those that waited for it."""
        flight = self._flights.pop(call_id, None)
        if flight is None:
            return
        if flight.key is not None:
            del self._leaders[flight.key]
        self._budget.finish(call_id, flight.num_tokens)
        for name, row in [(flight.call.operator, flight.call.row), *flight.followers]:
            if self.status is None:
                self._fail(name, row, code, message)

    # --- values ----------------------------------------------------------------------------

    def _serve(self, name: str, row: int, text: str, num_tokens: int) -> None:
        """Gives a row the answer of an equal call."""
        tally = self._tallies[name]
        tally.num_saved_calls += 1
        tally.saved_prompt_tokens += num_tokens
        self._complete(name, row, text, "result")

    def _complete(self, name: str, row: int, text: str, source: CallSource | None = None) -> None:
        """Notes a value and, from there on, everything in the row that needs no call."""
        pending = [(name, text)]
        while pending and self.status is None:
            name, text = pending.pop()
            self._values[name][row] = text
            self._states[name][row] = _DONE
            self._num_open -= 1
            if source is not None:
                self._tallies[name].num_done += 1
                self._report(OpRow(operator=name, row=row, source=source))
                self._report_row(name)
                source = None  # what follows is text put together, not a call
            for user in self._plan.users[name]:
                self._missing[user][row] -= 1
                if self._missing[user][row] or self._states[user][row] != _WAITING:
                    continue
                step = self._steps[user]
                value = self._render(step.text, row) if isinstance(step, Apply) else None
                if value is not None:
                    pending.append((user, value))
                else:
                    self._make_ready(user, row)

    def _fail(self, name: str, row: int, code: str, message: str) -> None:
        """Fails an operator for a row, and with it all that need it there."""
        error = RowError(row=row, operator=name, code=code, message=message)
        self._errors.setdefault(row, []).append(error)
        pending = [name]
        while pending:
            failed = pending.pop()
            if self._states[failed][row] != _WAITING:
                continue
            self._states[failed][row] = _FAILED
            self._num_open -= 1
            pending += self._plan.users[failed]
            if failed in self._tallies:
                self._tallies[failed].num_failed += 1
                self._report(OpRow(operator=failed, row=row, source=None, error=error))
                self._report_row(failed)
        if self._plan.limits.on_row_error == "fail" and self.status is None:
            self._end("failed", "run_failed", f"not finished, because the run failed: {error}")

    def _render(self, text: Text, row: int) -> str | None:
        """A text with the row's values in its slots; None if it is too long to make."""
        pieces: list[str] = []
        for part in text:
            value = self._values[part.name][row] if isinstance(part, Slot) else part
            assert value is not None
            pieces.append(value)
        return "".join(pieces) if sum(map(len, pieces)) <= MAX_VALUE_CHARS else None

    # --- ends ------------------------------------------------------------------------------

    def _end(self, status: RunStatus, code: str, message: str) -> None:
        """Ends the run: cancels what is on its way and says of every open row what it lacks."""
        self.status = status
        self._out += [CancelCall(call_id=call_id) for call_id in self._flights]
        self._flights.clear()
        self._leaders.clear()
        self._ready.clear()
        for row in range(self._num_rows if self._num_open else 0):
            open_steps = [name for name, rows in self._states.items() if rows[row] == _WAITING]
            if open_steps:
                error = RowError(row=row, operator=open_steps[0], code=code, message=message)
                self._errors.setdefault(row, []).append(error)
        self._report(RunCompleted(status=status, num_failed_rows=len(self._errors)))

    def _report_row(self, name: str) -> None:
        tally = self._tallies[name].freeze()
        is_last = tally.num_done + tally.num_failed == self._num_rows
        self._report(OpCompleted(statistics=tally) if is_last else OpProgress(statistics=tally))

    def _report(self, progress: Progress) -> None:
        self._out.append(Report(progress=progress))


_TOO_LARGE = f"its text would have over {MAX_VALUE_CHARS} characters; shorten what goes into it"
