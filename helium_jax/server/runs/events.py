"""A run's events as clients see them: numbered, bounded, and waited for."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec

from helium_jax.errors import RequestError
from helium_jax.executor.events import (
    OpCompleted,
    OpDelta,
    OpProgress,
    OpRow,
    OpStarted,
    Progress,
    RowCompleted,
)
from helium_jax.executor.result import OperatorStatistics, RowError, RowResult
from helium_jax.server.errors import GoneError
from helium_jax.server.plans.replies import RowErrorReply, RowReply
from helium_jax.types import EngineStatistics

PROGRESS_INTERVAL_MS = 200.0  # between two op.progress of one operator
DELTA_INTERVAL_MS = 50.0  # between two op.delta of one value
EVICTION_INTERVAL_MS = 200.0  # between two looks at the KV stores


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One event, ready to be sent.

    Attributes:
        part: of the run's events; a resume and a restart of the server begin another.
        number: within the part, from 0.
        type: such as "op.row".
        data: the whole event as JSON.
    """

    part: int
    number: int
    type: str
    data: bytes

    @property
    def id(self) -> str:
        """What Last-Event-ID takes."""
        return f"{self.part}.{self.number}"

    @property
    def place(self) -> tuple[int, int]:
        """Orders events."""
        return self.part, self.number


class EventLog:
    """The latest events of one run; the oldest leave when there are too many."""

    def __init__(self, run_id: str, *, max_events: int, first_part: int = 1) -> None:
        self._run_id = run_id
        self._events: deque[StoredEvent] = deque(maxlen=max_events)
        self._changed = asyncio.Event()
        self._part = first_part
        self._number = 0
        self._forgotten = (0, -1)  # place of the last event that left
        self.num_bytes = 0

    def begin_part(self) -> None:
        """Numbers what follows anew."""
        self._part, self._number = self._part + 1, 0

    def append(self, type_: str, t_ms: float, fields: Mapping[str, object]) -> None:
        """Adds an event and wakes who waits."""
        number = self._number
        self._number += 1
        data = msgspec.json.encode(
            {
                "id": f"{self._part}.{number}",
                "sequence_number": number,
                "run_id": self._run_id,
                "t_ms": round(t_ms, 3),
                "type": type_,
                **fields,
            }
        )
        if len(self._events) == self._events.maxlen:
            oldest = self._events[0]
            self._forgotten = oldest.place
            self.num_bytes -= len(oldest.data)
        self._events.append(StoredEvent(part=self._part, number=number, type=type_, data=data))
        self.num_bytes += len(data)
        self.wake()

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def after(self, place: tuple[int, int] | None) -> list[StoredEvent]:
        """Every event behind a place, or all that are kept.

        Raises:
            GoneError: some of them are no longer kept.
        """
        if place is None:
            return [*self._events]
        if place < self._forgotten:
            first = self._events[0].id
            raise GoneError(
                f"the events after {place[0]}.{place[1]} are not kept any more; the oldest is "
                f"{first}: read the run and its outputs, and ask without Last-Event-ID"
            )
        return [event for event in self._events if event.place > place]

    async def wait(self, place: tuple[int, int] | None, timeout_s: float) -> bool:
        """Whether there is news behind a place; False after a while without any."""
        if self._events and (place is None or self._events[-1].place > place):
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


def parse_event_id(source: str | None) -> tuple[int, int] | None:
    """The place that a Last-Event-ID names.

    Raises:
        RequestError: it is none of ours.
    """
    if not source:
        return None
    part, dot, number = source.partition(".")
    parts = (part, number)
    if not dot or not all(p.isascii() and p.isdecimal() and len(p) <= 15 for p in parts):
        raise RequestError(
            "Last-Event-ID must be the id of an event of this run, such as 1.17",
            param="Last-Event-ID",
        )
    return int(part), int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvicted:
    """Pages that a worker's KV store took from its prefixes, for whichever request.

    Attributes:
        worker: whose.
        pages: since the last such event, or the run's start.
        needed_tokens: computed since then although they had been in the store once.
    """

    type: ClassVar[str] = "cache.evicted"
    worker: int
    pages: int
    needed_tokens: int


Told = Progress | CacheEvicted
Place = tuple[str, int, tuple[int, ...]]


class ProgressFilter:
    """Thins what comes with every token: op.progress by leaving out, op.delta by joining."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._told: dict[Place, float] = {}
        self._held: dict[Place, OpDelta] = {}

    def pass_on(self, progress: Progress, t_ms: float) -> list[Progress]:
        """What is worth telling at this moment, in order."""
        match progress:
            case OpProgress(statistics=statistics):
                name = statistics.operator
                if t_ms - self._last.get(name, -PROGRESS_INTERVAL_MS) < PROGRESS_INTERVAL_MS:
                    return []
                self._last[name] = t_ms
                return [progress]
            case OpDelta():
                return self._pass_delta(progress, t_ms)
            case OpRow():
                place = _place(progress)
                self._told.pop(place, None)
                held = self._held.pop(place, None)
                return [progress] if held is None else [held, progress]
            case _:
                return [progress]

    def _pass_delta(self, delta: OpDelta, t_ms: float) -> list[Progress]:
        place = _place(delta)
        held = self._held.pop(place, None)
        if held is not None and delta.offset:
            delta = replace(held, text=held.text + delta.text)
        if t_ms - self._told.get(place, -DELTA_INTERVAL_MS) < DELTA_INTERVAL_MS:
            self._held[place] = delta
            return []
        self._told[place] = t_ms
        return [delta]


def _place(progress: OpDelta | OpRow) -> Place:
    return progress.operator, progress.row, progress.index


class EvictionWatch:
    """Notices what the KV stores evict while a run goes on."""

    def __init__(self, statistics: Callable[[], tuple[EngineStatistics, ...]]) -> None:
        self._statistics = statistics
        self._seen = [_evictions(worker) for worker in statistics()]
        self._looked = 0.0

    def look(self, t_ms: float, *, is_last: bool = False) -> list[CacheEvicted]:
        """What was evicted since the last look, unless that was a moment ago."""
        if t_ms - self._looked < EVICTION_INTERVAL_MS and not is_last:
            return []
        self._looked = t_ms
        found = []
        for worker, now in enumerate(map(_evictions, self._statistics())):
            pages, needed = now[0] - self._seen[worker][0], now[1] - self._seen[worker][1]
            if pages > 0:
                self._seen[worker] = now
                found.append(CacheEvicted(worker=worker, pages=pages, needed_tokens=needed))
        return found


def _evictions(worker: EngineStatistics) -> tuple[int, int]:
    return worker.cache.evicted_pages, worker.cache.evicted_then_needed_tokens


def describe_progress(progress: Told) -> dict[str, object]:
    """The fields of a run's event besides those that every event has."""
    match progress:
        case OpStarted(operator=operator, num_rows=num_rows):
            return {"operator": operator, "rows": num_rows}
        case OpProgress(statistics=statistics) | OpCompleted(statistics=statistics):
            return _describe_statistics(statistics)
        case OpDelta():
            return {
                **_describe_place(progress),
                "offset": progress.offset,
                "text": progress.text,
            }
        case OpRow():
            fields = {**_describe_place(progress), "from": progress.source}
            if progress.error is not None:
                fields["error"] = describe_error(progress.error)
            return fields
        case RowCompleted(result=result):
            return msgspec.to_builtins(describe_row(result))
        case CacheEvicted():
            return {
                "worker": progress.worker,
                "pages": progress.pages,
                "needed_tokens": progress.needed_tokens,
            }
        case _:
            return {}


def _describe_place(progress: OpDelta | OpRow) -> dict[str, object]:
    fields: dict[str, object] = {"operator": progress.operator, "row": progress.row}
    if progress.index:
        fields["index"] = progress.index
    return fields


def describe_row(result: RowResult) -> RowReply:
    """A row as clients see it."""
    return RowReply(
        row=result.row,
        outputs=dict(result.outputs),
        errors=[describe_error(error) for error in result.errors],
    )


def describe_error(error: RowError) -> RowErrorReply:
    """A row's error as clients see it."""
    return RowErrorReply(operator=error.operator, code=error.code, message=error.message)


def _describe_statistics(statistics: OperatorStatistics) -> dict[str, object]:
    return {
        "operator": statistics.operator,
        "rows": statistics.num_rows,
        "done": statistics.num_done,
        "failed": statistics.num_failed,
        "calls": statistics.num_calls,
        "saved_calls": statistics.num_saved_calls,
        "cached_calls": statistics.num_cached_calls,
        "prompt_tokens": statistics.prompt_tokens,
        "kv_cached": statistics.kv_cached,
        "completion_tokens": statistics.completion_tokens,
    }
