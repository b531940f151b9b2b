"""The border between a run and its policy: ready calls go in, releases come out.

A policy decides in which order the calls of one run reach the engine, on which worker, and what
the KV store shall know of the plan. It is pure: no clock, no I/O, and draws only from a generator
seeded by its setting, so that equal events give equal releases. What it sees of the plan is a
`CallGraph`; what happens beyond it (loops, maps, branches) reaches it as calls of operators and
rows it may not have expected, and as `closed` for those that will not come.

The run's state drives it like this:

    coming(id, row)     a call exists and is being encoded or looked up in the output cache
    ready(call)         it could go to the engine now
    release(room)       asked after every event; what comes back goes to the engine, in this order
    started(id)         its first token is there
    finished(id, n)     it has its answer, failed, was cancelled, was served from a cache, or was
                        dropped before it was released
    closed(op, row)     this operator makes no further call for this row: it is done, failed,
                        was served by another call, or lies on a branch that was not taken

Limits on calls and tokens are the state's: it asks for them when a call is released, never between
`coming` and `ready`, for a barrier waits for calls that are coming.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.roofline import Roofline


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call that could go to the engine now.

    Attributes:
        call_id: unique in the run.
        operator: who calls; may be one that the graph does not have.
        row: for which row of the batch.
        token_ids: the whole prompt.
        max_tokens: most tokens of the answer; None for no limit of its own.
        priority: of the run and the operator together; lower is sooner.
        frame: the index of each loop iteration and map item around the call, outermost first.
    """

    call_id: int
    operator: str
    row: int
    token_ids: tuple[int, ...]
    max_tokens: int | None = None
    priority: int = 0
    frame: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A call that shall reach the engine; the fields are those of `GenerateRequest`.

    Attributes:
        call_id: of the ready call.
        worker: which engine; None leaves it to the pool, which takes the least loaded one.
        priority: of the ready call.
        planned_next_use: order in which the plan needs the prompt's pages again; None: never
            again, or not known.
        prefer_cached: the engine may admit it before others of its priority whose prompts have a
            shorter cached prefix.
    """

    call_id: int
    worker: int | None = None
    priority: int = 0
    planned_next_use: int | None = None
    prefer_cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixUse:
    """News of a prefix for the KV store: when the plan needs it again.

    Attributes:
        token_ids: the prefix.
        next_use: as in `Release.planned_next_use`; None: its last consumer is done.
        worker: whose store; None for every worker's.
    """

    token_ids: tuple[int, ...]
    next_use: int | None
    worker: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSetting:
    """What a policy knows of the engines and of the run's options.

    Attributes:
        num_workers: engines.
        page_size: tokens per KV page.
        kv_tokens: KV capacity of each worker, in tokens.
        max_num_seqs: most sequences in a step of a worker.
        max_num_batched_tokens: most tokens in a step of a worker.
        seed: of everything drawn.
        strict: keep the planned order even where a worker has to wait for it.
        roofline: seconds of the engines' steps, if plans shall go by them; None: by token steps.
    """

    num_workers: int = 1
    page_size: int = 32
    kv_tokens: int = 65_536
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    seed: int = 0
    strict: bool = False
    roofline: Roofline | None = None


class Dispatcher(Protocol):
    """Orders and places the calls of one run; owned by the run's state."""

    @property
    def warms(self) -> bool:
        """Whether the static prefixes of the plan shall be computed ahead of its calls."""
        ...

    def coming(self, call_id: int, row: int) -> None:
        """A call is being prepared: `ready` or `finished` follows without any release."""
        ...

    def ready(self, call: ReadyCall) -> None:
        """A call may be released from now on. One that had come back (its worker died) may be
        ready again after it `finished`."""
        ...

    def started(self, call_id: int) -> None:
        """A released call has its first token, so its prompt's pages are resident and being read:
        the moment to say when they are needed again, before they can be evicted."""
        ...

    def finished(self, call_id: int, output_tokens: int) -> None:
        """A call is over, whatever way; unknown ids and second times have no effect."""
        ...

    def closed(self, operator: str, row: int) -> None:
        """No further call of `operator` will come for `row`; repeating it has no effect."""
        ...

    def computed_early(self, operator: str, row: int) -> int | None:
        """The beginning of a coming call's prompt is computed before the call exists; returns when
        it is needed, as in `Release.planned_next_use`. When that call is over, `uses_changed` says
        of its pages what is true then."""
        ...

    def lost(self, worker: int) -> None:
        """A worker is gone: nothing is placed there any more."""
        ...

    def release(self, room: int) -> list[Release]:
        """Takes out at most `room` calls, in the order in which they shall reach the engine.

        `room` is what the run's limits and the engine's queue allow. A policy holds back what it
        wants to decide later, but never everything: with nothing coming and nothing in flight it
        releases at least one of the calls that are ready.
        """
        ...

    def uses_changed(self) -> list[PrefixUse]:
        """News since the last time, for `Generator.foresee`; empty for policies without plans."""
        ...


MakePolicy = Callable[[CallGraph, DispatchSetting], Dispatcher]
