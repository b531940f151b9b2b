"""One run as a state machine without I/O: events in, instructions out.

Data flows row by row through frames (`frames.py`): an operator starts as soon as what it reads is
there, whatever other rows do. Control operators begin frames and end them (`control.py`); calls of
the model go through the policy to the engine (`calls.py`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from helium_jax.executor.ahead import find_known_prefixes
from helium_jax.executor.as_ready import AsReady
from helium_jax.executor.budget import NOTHING, Spent
from helium_jax.executor.calls import Calls
from helium_jax.executor.events import (
    CallEncoded,
    CallFailed,
    CallFinished,
    CallProgressed,
    CallServed,
    CallSource,
    CallTimedOut,
    CancelOperator,
    CancelRequested,
    CancelRow,
    DeadlinePassed,
    Event,
    FunctionFailed,
    FunctionReturned,
    Instruction,
    OpCompleted,
    OpProgress,
    OpRow,
    PrefillAhead,
    Progress,
    Report,
    RowCompleted,
    RunCompleted,
    RunStarted,
)
from helium_jax.executor.flight import Landing
from helium_jax.executor.flow import Flow
from helium_jax.executor.frames import (
    Activation,
    Frame,
    Place,
    make_scope,
)
from helium_jax.executor.invocations import Invocations
from helium_jax.executor.result import OperatorStatistics, RowError, RowResult, RunStatus
from helium_jax.executor.tally import Tally
from helium_jax.executor.values import TOO_LARGE, text_of
from helium_jax.physical import (
    Generate,
    Invoke,
    PhysicalPlan,
)
from helium_jax.plan.limits import MAX_VALUE_CHARS
from helium_jax.schedule.dispatch import Dispatcher

ENCODE_AHEAD = 2_048
NO_BAD_VALUES: Mapping[int, RowError] = {}


class RunState:
    """Progress of one run; changes only through `handle`."""

    def __init__(
        self,
        plan: PhysicalPlan,
        num_rows: int,
        columns: Mapping[str, Sequence[str]],
        *,
        max_in_flight: int,
        bad_values: Mapping[int, RowError] = NO_BAD_VALUES,
        single_flight: bool = True,
        dispatcher: Dispatcher | None = None,
        encode_ahead: int = ENCODE_AHEAD,
        prefill_ahead: bool = False,
        tells_rows: bool = False,
        tells_deltas: bool = False,
        tells_answers: bool = False,
        spent: Spent = NOTHING,
    ) -> None:
        """
        Args:
            plan: what to do for each row.
            num_rows: rows of the batch.
            columns: values of every operator that needs no work; see `rows.bind_rows`.
            max_in_flight: most calls on their way at once.
            bad_values: rows that fail for a value of the wrong type.
            single_flight: make equal deterministic calls once, and equal pure functions.
            dispatcher: orders the calls; by default as soon as they are ready.
            encode_ahead: calls that are prepared before the engine has room for them.
            prefill_ahead: have what is known of a prompt computed while the rest is generated.
            tells_rows: report the outputs of every row as soon as it is over.
            tells_deltas: report the answers of calls as they grow.
            tells_answers: report what the answers of calls were besides their texts.
            spent: by earlier attempts at the run, of its limits.
        """
        self._plan = plan
        self._num_rows = num_rows
        self._columns = columns
        self._bad_values = bad_values
        self._scope = make_scope(plan.operators)
        self._encode_ahead = encode_ahead
        self._prefill_ahead = prefill_ahead
        self._tells_rows = tells_rows
        self._tallies = {op.name: Tally(op.name, num_rows) for op in plan.calls}
        self._out: list[Instruction] = []
        self._dispatcher = dispatcher or AsReady()
        self._flow = Flow(plan, columns, workers=self, witness=self)
        self._calls = Calls(
            plan,
            dispatcher=self._dispatcher,
            tallies=self._tallies,
            look=self._flow.look,
            out=lambda instruction: self._out.append(instruction),
            max_in_flight=max_in_flight,
            single_flight=single_flight,
            encode_ahead=encode_ahead,
            tells_deltas=tells_deltas,
            tells_answers=tells_answers,
            spent=spent,
        )
        self._invocations = Invocations(
            lambda instruction: self._out.append(instruction), merges=single_flight
        )
        self._roots: dict[int, Frame] = {}  # of rows that are open
        self._outputs: dict[int, Mapping[str, str | None]] = {}  # of rows that are over
        self._has_started = False
        self._next_row = 0
        self._errors: dict[int, list[RowError]] = {}
        self._ended: list[str] = []  # operators that make no further call, and nobody knows yet
        self._unwanted_rows: set[int] = set()
        self.status: RunStatus | None = None

    def handle(self, event: Event) -> list[Instruction]:
        """Takes note of an event; returns what is to be done now, in order.

        Events of calls that are no longer wanted, and events after the end, have no effect.
        """
        if self.status is None:
            self._take(event)
            if self._has_started:
                self._advance()
        out, self._out = self._out, []
        return out

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._has_started = True
            case CallEncoded(call_id=call_id, token_ids=token_ids):
                self._calls.on_encoded(call_id, token_ids)
            case CallProgressed():
                self._calls.on_progressed(event)
            case CallFinished():
                self._land(self._calls.on_finished(event))
            case CallServed():
                self._land(self._calls.on_served(event))
            case CallFailed():
                self._land(self._calls.on_failed(event))
            case CallTimedOut():
                self._land(self._calls.on_timed_out(event))
            case FunctionReturned(invocation_id=invocation_id, text=text):
                self._on_returned(invocation_id, text)
            case FunctionFailed(invocation_id=invocation_id, code=code, message=message):
                for frame, name in self._invocations.take(invocation_id):
                    self._flow.refuse((frame, name), code, message)
            case CancelRow(row=row):
                self._cancel_row(row)
            case CancelOperator(operator=name):
                self._cancel_operator(name)
            case CancelRequested():
                self._end("cancelled", "cancelled", "the run was cancelled")
            case DeadlinePassed():
                message = f"the run's timeout of {self._plan.limits.timeout_s:g} s is over"
                self._end("expired", "deadline_exceeded", message)

    def statistics(self) -> tuple[OperatorStatistics, ...]:
        """What every calling operator did so far."""
        return tuple(tally.freeze() for tally in self._tallies.values())

    def results(self) -> Iterator[RowResult]:
        """Outputs and errors of every row, as far as they are known."""
        for row in range(self._num_rows):
            outputs = self._outputs.get(row)
            if outputs is None:
                outputs = self._outputs_of(row)
            yield RowResult(row=row, outputs=outputs, errors=tuple(self._errors.get(row, ())))

    # --- the loop --------------------------------------------------------------------------

    def _advance(self) -> None:
        """Goes on until nothing more follows from what is known."""
        while self.status is None:
            self._flow.run(lambda: not self._has_failed)
            self._report_ended()
            if self._has_failed:
                first = next(iter(self._errors.values()))[0]
                self._end("failed", "run_failed", f"not finished, because the run failed: {first}")
            if self.status is not None:
                return
            if self._next_row < self._num_rows and self._is_hungry():
                self._open_row()
                continue
            landings = self._calls.advance()
            self._land(landings)
            if not self._flow.is_idle or (self._next_row < self._num_rows and self._is_hungry()):
                continue
            break
        if self.status is None and self._next_row == self._num_rows and not self._roots:
            self._end("completed", "", "")
        if self._prefill_ahead and self._calls.has_idle_room:
            for (frame, name), worker in self._calls.take_submitted():
                if not frame.is_live or name not in frame.running:
                    continue
                for prefix in find_known_prefixes(frame, name, self._flow.peek):
                    next_use = self._dispatcher.computed_early(prefix.operator, frame.row)
                    self._out.append(
                        PrefillAhead(turns=prefix.turns, worker=worker, planned_next_use=next_use)
                    )

    @property
    def _has_failed(self) -> bool:
        return bool(self._errors) and self._plan.limits.on_row_error == "fail"

    def _is_hungry(self) -> bool:
        return self._calls.is_hungry and self._invocations.num_running < self._encode_ahead

    def _open_row(self) -> None:
        row = self._next_row
        self._next_row += 1
        frame = Frame(scope=self._scope, row=row)
        self._roots[row] = frame
        bad_value = self._bad_values.get(row)
        if bad_value is not None:
            self._errors[row] = [bad_value]
        if bad_value is not None or row in self._unwanted_rows or not self._scope.steps:
            self._flow.open(frame)
            self._give_up(frame, bad_value)
            self._end_row_if_over(frame)
        else:
            self._flow.open(frame)

    def _land(self, landings: list[Landing]) -> None:
        for landing in landings:
            if landing.value is None:
                self._flow.refuse(landing.place, landing.code, landing.message)
            else:
                self._flow.put(landing.place, landing.value, landing.source)

    # --- outcomes --------------------------------------------------------------------------

    def _on_returned(self, invocation_id: int, text: str) -> None:
        is_large = len(text) > MAX_VALUE_CHARS
        for frame, name in self._invocations.take(invocation_id, None if is_large else text):
            if is_large:
                self._flow.refuse((frame, name), "value_too_large", TOO_LARGE)
            else:
                self._flow.put((frame, name), text)

    def on_value(self, frame: Frame, name: str, source: CallSource | None) -> None:
        """See `flow.Witness`."""
        if source is not None:
            self._tallies[name].num_done += 1
            self._report(OpRow(operator=name, row=frame.row, source=source, index=frame.index))
            self._report_progress(name)
        self._end_row_if_over(frame)

    def on_failure(self, frame: Frame, name: str, error: RowError) -> None:
        """See `flow.Witness`."""
        if frame.parent is None:
            errors = self._errors.setdefault(frame.row, [])
            if not any(known is error for known in errors):
                errors.append(error)
        if name in self._tallies:
            self._tallies[name].num_failed += 1
            self._report(
                OpRow(operator=name, row=frame.row, source=None, error=error, index=frame.index)
            )
            self._report_progress(name)
        self._end_row_if_over(frame)

    def on_closed(self, call: str, row: int) -> None:
        """See `flow.Witness`."""
        self._dispatcher.closed(call, row)
        tally = self._tallies[call]
        tally.num_closed += 1
        if tally.num_closed == self._num_rows:
            self._ended.append(call)

    # --- workers ---------------------------------------------------------------------------

    def begin(self, frame: Frame, step: Generate | Invoke) -> None:
        """See `flow.Workers`."""
        if isinstance(step, Generate):
            self._calls.expect(frame, step)
            return
        texts = tuple(text_of(self._flow.look(frame, arg)) for arg in step.args)
        text = self._invocations.start((frame, step.name), step, texts)
        if text is not None:
            self._flow.put((frame, step.name), text)

    def leave(self, place: Place, number: int) -> None:
        """See `flow.Workers`."""
        frame, name = place
        owner = self._invocations if isinstance(frame.scope.steps[name], Invoke) else self._calls
        owner.leave(place, number)

    # --- ends ------------------------------------------------------------------------------

    def _end_row_if_over(self, frame: Frame) -> None:
        if frame.parent is None and frame.num_open == 0 and self._roots.get(frame.row) is frame:
            outputs = self._outputs[frame.row] = self._outputs_of(frame.row)
            del self._roots[frame.row]
            if self._tells_rows:
                errors = tuple(self._errors.get(frame.row, ()))
                result = RowResult(row=frame.row, outputs=outputs, errors=errors)
                self._report(RowCompleted(result=result))

    def _outputs_of(self, row: int) -> Mapping[str, str | None]:
        if row in self._bad_values:
            return {name: None for name, _ in self._plan.outputs}
        frame = self._roots.get(row)
        values = {} if frame is None else frame.values
        outputs: dict[str, str | None] = {}
        for name, source in self._plan.outputs:
            if source in self._columns:
                outputs[name] = self._columns[source][row]
            else:
                outputs[name] = text_of(values[source]) if source in values else None
        return outputs

    def _cancel_row(self, row: int) -> None:
        if row < self._next_row:
            frame = self._roots.get(row)
            if frame is not None:
                self._give_up(frame)
        else:
            self._unwanted_rows.add(row)

    def _give_up(self, frame: Frame, error: RowError | None = None) -> None:
        """Fails what a row has not computed yet, with one reason for all of it: its cancellation
        unless there is another `error`."""
        is_open = (n for n in frame.scope.steps if n not in frame.values and n not in frame.failed)
        names = [*is_open]
        if error is None and names:
            message = "the row was cancelled"
            error = RowError(row=frame.row, operator=names[0], code="cancelled", message=message)
        for name in names:
            if error is not None and name not in frame.failed:
                self._flow.fail(frame, name, error)

    def _cancel_operator(self, name: str) -> None:
        self._flow.unwanted.add(name)
        pending = [*self._roots.values()]
        while pending:
            frame = pending.pop()
            if name in frame.scope.steps:
                self._flow.refuse((frame, name), "cancelled", "the operator was cancelled")
            for occupied in frame.running.values():
                if isinstance(occupied, Activation):
                    pending += occupied.children.values()

    def _end(self, status: RunStatus, code: str, message: str) -> None:
        """Ends the run: cancels what is on its way and says of every open row what it lacks."""
        self.status = status
        self._invocations.end()
        self._flow.clear()
        if status != "completed":
            self._close_all()
        self._calls.end()
        unopened = ((row, None) for row in range(self._next_row, self._num_rows))
        for row, frame in itertools.chain(self._roots.items(), unopened):
            values = {} if frame is None else {**frame.values, **frame.failed}
            names = [name for name in self._scope.steps if name not in values]
            if names:
                error = RowError(row=row, operator=names[0], code=code, message=message)
                self._errors.setdefault(row, []).append(error)
        self._report(RunCompleted(status=status, num_failed_rows=len(self._errors)))

    def _close_all(self) -> None:
        """Tells the dispatcher that nothing comes any more, so that what it told the KV stores of
        later uses can be taken back."""
        rows = [*self._roots, *range(self._next_row, self._num_rows)]
        for call, row in itertools.product(self._plan.calls, rows):
            self._dispatcher.closed(call.name, row)

    def _report_progress(self, name: str) -> None:
        statistics = self._tallies[name].freeze()
        if name in self._ended:
            self._ended.remove(name)
            self._report(OpCompleted(statistics=statistics))
        else:
            self._report(OpProgress(statistics=statistics))

    def _report_ended(self) -> None:
        """Says which operators ended without a row of their own at last."""
        ended, self._ended = self._ended, []
        for name in ended:
            self._report(OpCompleted(statistics=self._tallies[name].freeze()))

    def _report(self, progress: Progress) -> None:
        self._out.append(Report(progress=progress))
