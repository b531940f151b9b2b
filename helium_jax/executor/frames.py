"""Dataflow inside a frame: one activation of a scope for a row, and what becomes ready in it.

A row has one root frame for the plan and one more for every branch taken, iteration, item and arm
that runs. A frame holds the values of its own scope; other names are looked up outwards. An
operator is ready when the names it reads are there, in whichever frame they live; a frame ends when
the names wanted of it are there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from helium_jax.executor.control import Progress
from helium_jax.executor.result import RowError
from helium_jax.executor.values import Value
from helium_jax.physical import Hold, PhysicalOperator, Read, calls_within
from helium_jax.physical.references import direct_needs

END = ""  # stands for the frame's end among the users of a name; no operator is called that


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class Scope:
    """The operators of a plan or region, as a frame of it needs them.

    Attributes:
        steps: what must run, by name, in an order in which it can.
        wanted: names whose values end a frame; none for the root, which ends when all steps have.
        users: by name, of this scope or around it, the steps that read it, `END` among them.
        num_local: for each step, and `END`, how many of the names it reads are steps too.
        calls: for each step that is or holds calls of the model, their names.
    """

    steps: Mapping[str, PhysicalOperator]
    wanted: tuple[str, ...]
    users: Mapping[str, tuple[str, ...]]
    num_local: Mapping[str, int]
    calls: Mapping[str, tuple[str, ...]]

    @cached_property
    def outer(self) -> Mapping[str, tuple[str, ...]]:
        """The part of `users` whose names are no steps of this scope."""
        return {name: users for name, users in self.users.items() if name not in self.steps}


def make_scope(
    operators: Iterable[PhysicalOperator], wanted: tuple[str, ...] | None = None
) -> Scope:
    """The scope of a plan's or region's operators; columns are no steps of it.

    Args:
        operators: of the scope.
        wanted: names whose values end a frame of a region, which may be none: an iteration of a
            loop that hands nothing on ends at once unless it is the last. None for a plan.
    """
    steps = {op.name: op for op in operators if not isinstance(op, Read | Hold)}
    needs = {name: direct_needs(op) for name, op in steps.items()}
    if wanted is not None:
        needs[END] = tuple(dict.fromkeys(wanted))
    users: dict[str, list[str]] = {}
    for name, names in needs.items():
        for need in names:
            users.setdefault(need, []).append(name)
    return Scope(
        steps=steps,
        wanted=wanted or (),
        users={name: tuple(names) for name, names in users.items()},
        num_local={name: sum(need in steps for need in names) for name, names in needs.items()},
        calls={name: calls for name, op in steps.items() if (calls := calls_within((op,)))},
    )


@dataclass(slots=True, kw_only=True, eq=False)
class Frame:
    """One activation of a scope; belongs to a `RunState`.

    Attributes:
        scope: of what.
        row: for which row.
        parent: the frame around it; None for a root.
        owner: the operator in the parent that runs it.
        position: which of the owner's children it is: iteration, item or arm.
        index: of each iteration and item around it, outermost first.
        values: of its own names: bound ones from the start, steps once they are done.
        failed: the steps that will have no value, and why.
        missing: for each step that has not started, and `END`, how many names it waits for.
        running: what each running step is occupied with: the id of a call or a function's
            invocation, or frames of its own.
        watchers: names of this frame that child frames wait for.
        awaited: by step that is not over, the calls that may still come from it; see `awaited.py`.
        ahead: calls whose prompts' known beginnings were given out; see `ahead.py`.
        num_open: steps that are neither done nor failed.
        is_live: False once nobody wants it any more.
    """

    scope: Scope
    row: int
    parent: "Frame | None" = None
    owner: str = ""
    position: int = 0
    index: tuple[int, ...] = ()
    values: dict[str, Value] = field(default_factory=dict)
    failed: dict[str, RowError] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    running: "dict[str, int | Activation]" = field(default_factory=dict)
    watchers: "dict[str, list[Frame]]" = field(default_factory=dict)
    awaited: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)
    num_open: int = 0
    is_live: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class Activation:
    """A control operator that is running: what its frames gave, and those that run, by position."""

    progress: Progress = field(default_factory=Progress)
    children: dict[int, Frame] = field(default_factory=dict)


Place = tuple[Frame, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What can be said of a frame's steps when it begins."""

    ready: list[str]
    failed: list[tuple[str, RowError]]


def open_frame(frame: Frame) -> Opened:
    """Finds what the frame's steps wait for; call it once, with the bound names in `values`."""
    scope = frame.scope
    frame.missing = dict(scope.num_local)
    frame.num_open = len(scope.steps)
    failed: list[tuple[str, RowError]] = []
    if frame.parent is not None:
        for name, users in scope.outer.items():
            home = _home(frame, name)
            if home is None or name in home.values:
                continue
            if name in home.failed:
                failed += [(user, home.failed[name]) for user in users]
                continue
            home.watchers.setdefault(name, []).append(frame)
            for user in users:
                frame.missing[user] += 1
    ready = [name for name, count in frame.missing.items() if count == 0]
    refused = {name for name, _ in failed}
    return Opened(ready=[name for name in ready if name not in refused], failed=failed)


def find(frame: Frame, name: str) -> Value | None:
    """A name's value as seen from `frame`; None for a column, or if it is not there."""
    home = _home(frame, name)
    return None if home is None else home.values.get(name)


def complete(frame: Frame, name: str, value: Value) -> list[Place]:
    """Notes a step's value; returns what is ready now, the frame's end (`END`) included."""
    frame.values[name] = value
    frame.num_open -= 1
    ready: list[Place] = []
    for one in (frame, *_pop_watchers(frame, name)):
        for user in one.scope.users.get(name, ()):
            if user not in one.failed:
                one.missing[user] -= 1
                if one.missing[user] == 0:
                    ready.append((one, user))
    return ready


def fail(frame: Frame, name: str, error: RowError) -> list[Place]:
    """Notes that a step has no value; returns it and all that cannot start without it."""
    affected: list[Place] = []
    pending: list[Place] = [(frame, name)]
    while pending:
        one, step = pending.pop()
        if step in one.failed or step in one.values:
            continue
        one.failed[step] = error
        affected.append((one, step))
        if step == END:
            continue
        one.num_open -= 1
        for other in (one, *_pop_watchers(one, step)):
            pending += [(other, user) for user in other.scope.users.get(step, ())]
    return affected


def _pop_watchers(frame: Frame, name: str) -> list[Frame]:
    return [one for one in frame.watchers.pop(name, ()) if one.is_live]


def _home(frame: Frame, name: str) -> Frame | None:
    """The frame around, or `frame` itself, to which a name belongs; None for a column."""
    home: Frame | None = frame
    while home is not None:
        if name in home.values or name in home.scope.steps:
            return home
        home = home.parent
    return None
