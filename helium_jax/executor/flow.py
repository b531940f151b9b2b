"""Moves values through the frames of a run: starts steps, ends them, runs control operators."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from helium_jax.executor import control
from helium_jax.executor.awaited import Awaited
from helium_jax.executor.events import CallSource
from helium_jax.executor.frames import (
    END,
    Activation,
    Frame,
    Place,
    Scope,
    complete,
    fail,
    find,
    make_scope,
    open_frame,
)
from helium_jax.executor.result import RowError
from helium_jax.executor.values import TOO_LARGE, Value, cut, render, text_of, view
from helium_jax.physical import (
    Apply,
    Control,
    Generate,
    Hold,
    Invoke,
    Loop,
    PhysicalOperator,
    PhysicalPlan,
    Read,
    Slice,
    View,
    calls_within,
    regions,
)


class Workers(Protocol):
    """Who does what takes time: calls of the model and functions."""

    def begin(self, frame: Frame, step: Generate | Invoke) -> None:
        """Takes a step whose inputs are there; its outcome comes by `Flow.put` or `refuse`."""
        ...

    def leave(self, place: Place, number: int) -> None:
        """A step is not wanted any more."""
        ...


class Witness(Protocol):
    """Who must know what became of steps."""

    def on_value(self, frame: Frame, name: str, source: CallSource | None) -> None:
        """A step has its value; `source` says of calls where from."""
        ...

    def on_failure(self, frame: Frame, name: str, error: RowError) -> None:
        """A step will have none, by itself or for lack of what it needs."""
        ...

    def on_closed(self, call: str, row: int) -> None:
        """No further call of an operator will come for a row, from wherever in the plan; said
        before the last step of it has its outcome."""
        ...


class Flow:
    """Owns the frames of one run and what is to be done in them; part of a `RunState`."""

    def __init__(
        self,
        plan: PhysicalPlan,
        columns: Mapping[str, Sequence[str]],
        *,
        workers: Workers,
        witness: Witness,
    ) -> None:
        self._plan = plan
        self._columns = columns
        self._workers = workers
        self._witness = witness
        self._scopes = {op.name: _scopes_of(op) for op in plan.all_operators}
        self._awaited = Awaited(witness.on_closed)
        self._todo: deque[tuple[Frame, str, Value | RowError | None, CallSource | None]] = deque()
        self.unwanted: set[str] = set()  # operators that were cancelled

    @property
    def is_idle(self) -> bool:
        """Whether nothing follows from what is known."""
        return not self._todo

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Does what follows from what is known, while it may go on."""
        while self._todo and goes_on():
            frame, name, outcome, source = self._todo.popleft()
            if not frame.is_live or name in frame.failed or name in frame.values:
                continue
            if outcome is None:
                self._start(frame, name)
            elif isinstance(outcome, RowError):
                self.fail(frame, name, outcome)
            else:
                self._complete(frame, name, outcome, source)

    def clear(self) -> None:
        """Forgets what was to be done: the run is over."""
        self._todo.clear()

    def open(self, frame: Frame) -> None:
        """Begins a frame."""
        opened = open_frame(frame)
        frame.awaited = dict(frame.scope.calls)
        for calls in frame.awaited.values():
            self._awaited.expect(frame.row, calls)
        self._todo += [(frame, name, None, None) for name in opened.ready]
        self._todo += [(frame, name, error, None) for name, error in opened.failed]

    def put(self, place: Place, value: Value, source: CallSource | None = None) -> None:
        """Gives a step its value."""
        self._todo.append((*place, value, source))

    def refuse(self, place: Place, code: str, message: str) -> None:
        """Says why a step has no value."""
        frame, name = place
        error = RowError(row=frame.row, operator=name, code=code, message=message)
        self._todo.append((frame, name, error, None))

    def peek(self, frame: Frame, name: str) -> Value | None:
        """A name's value, seen from a frame; None if it is not there yet."""
        value = find(frame, name)
        if value is None and name in self._columns:
            return self._columns[name][frame.row]
        return value

    def look(self, frame: Frame, name: str) -> Value:
        """A name's value, seen from a frame that may read it."""
        value = self.peek(frame, name)
        assert value is not None, "what a step reads is there when it starts"
        return value

    # --- steps -----------------------------------------------------------------------------

    def _start(self, frame: Frame, name: str) -> None:
        if name == END:
            self._end_frame(frame)
            return
        if name in self.unwanted:
            self.refuse((frame, name), "cancelled", "the operator was cancelled")
            return
        step = frame.scope.steps[name]
        text: Value | None
        match step:
            case Generate() | Invoke():
                self._workers.begin(frame, step)
                return
            case Apply(text=template):
                text = render(template, lambda slot: self.look(frame, slot))
            case Slice(source=source):
                text = cut(step, self.look(frame, source))
            case View(source=source):
                text = view(step, self.look(frame, source))
            case Read() | Hold():
                raise AssertionError("columns are no steps")
            case _:
                activation = Activation()
                frame.running[name] = activation
                look = self._look_from(frame)
                self._carry_on(
                    frame, step, activation, control.start(step, activation.progress, look)
                )
                return
        if text is None:
            self.refuse((frame, name), "value_too_large", TOO_LARGE)
        else:
            self._complete(frame, name, text, None)

    def _complete(self, frame: Frame, name: str, value: Value, source: CallSource | None) -> None:
        self.stop(frame, name)
        if name not in self._plan.remembered:
            value = text_of(value)
        ready = complete(frame, name, value)
        self._witness.on_value(frame, name, source)
        self._todo += [(one, user, None, None) for one, user in ready]

    def fail(self, frame: Frame, name: str, error: RowError) -> None:
        """Fails a step, and with it all that cannot start without it."""
        for one, step in fail(frame, name, error):
            self.stop(one, step)
            if step == END:
                self._fail_frame(one, error)
            else:
                self._witness.on_failure(one, step, error)

    def stop(self, frame: Frame, name: str) -> None:
        """Ends whatever a step is occupied with; its frames and their calls die."""
        pending = [(frame, name)]
        while pending:
            one, step = pending.pop()
            occupied = one.running.pop(step, None)
            if isinstance(occupied, Activation):
                for child in occupied.children.values():
                    child.is_live = False
                    pending += [(child, other) for other in child.running | child.awaited]
            elif occupied is not None:
                self._workers.leave((one, step), occupied)
            self._await_only(one, step, ())

    def _await_only(self, frame: Frame, name: str, calls: tuple[str, ...]) -> None:
        """From now on only these calls may come from a step, beside those of its frames."""
        before = frame.awaited.pop(name, ())
        if calls:
            frame.awaited[name] = calls
        self._awaited.expect(frame.row, calls)
        self._awaited.release(frame.row, before)

    # --- control ---------------------------------------------------------------------------

    def _look_from(self, frame: Frame) -> control.Look:
        return lambda name: self.look(frame, name)

    def _carry_on(
        self, frame: Frame, operator: Control, activation: Activation, step: control.Step
    ) -> None:
        """Does what a control operator decided."""
        match step:
            case control.Done(value=value):
                self.put((frame, operator.name), value)
            case control.Refused(code=code, message=message):
                self.refuse((frame, operator.name), code, message)
            case control.Begin(openings=openings):
                activation.progress.num_children += len(openings)
                for opening in openings:
                    repeated = (opening.position,) if opening.is_repeated else ()
                    child = Frame(
                        scope=self._scopes[operator.name][opening.scope],
                        row=frame.row,
                        parent=frame,
                        owner=operator.name,
                        position=opening.position,
                        index=(*frame.index, *repeated),
                        values=dict(opening.given),
                    )
                    activation.children[opening.position] = child
                    self.open(child)
                if openings:
                    left = control.yet_to_begin(operator, openings[-1].position)
                    calls = (name for region in left for name in calls_within(region.operators))
                    self._await_only(frame, operator.name, tuple(dict.fromkeys(calls)))

    def _end_frame(self, frame: Frame) -> None:
        """All that was wanted of a frame is there."""
        values = {name: self.look(frame, name) for name in frame.scope.wanted}
        self._ask_owner(frame, values)

    def _fail_frame(self, frame: Frame, error: RowError) -> None:
        """Something that was wanted of a frame will not be there."""
        if frame.is_live:
            self._ask_owner(frame, error)

    def _ask_owner(self, frame: Frame, outcome: Mapping[str, Value] | RowError) -> None:
        frame.is_live = False
        for name in frame.running | frame.awaited:
            self.stop(frame, name)  # what is not needed after all
        parent = frame.parent
        assert parent is not None, "a root has no end that anybody waits for"
        activation = parent.running[frame.owner]
        operator = parent.scope.steps[frame.owner]
        assert isinstance(activation, Activation)
        assert isinstance(operator, Control)
        del activation.children[frame.position]
        progress = activation.progress
        if isinstance(outcome, RowError):
            progress.errors[frame.position] = outcome
            if control.has_failed(operator, progress):
                self._todo.append((parent, operator.name, outcome, None))
                return
        else:
            progress.values[frame.position] = outcome
        step = control.proceed(operator, progress, self._look_from(parent))
        self._carry_on(parent, operator, activation, step)


def _scopes_of(operator: PhysicalOperator) -> tuple[Scope, ...]:
    """The scopes that a control operator's openings speak of; of other operators none."""
    if isinstance(operator, Loop):
        return (
            make_scope(operator.again.operators, operator.wanted),
            make_scope(operator.last.operators, (operator.final,)),
        )
    return tuple(make_scope(region.operators, (region.result,)) for region in regions(operator))
