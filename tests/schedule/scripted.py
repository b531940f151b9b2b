"""Runs of random graphs without an engine: who finishes next is drawn, time does not exist."""

import random
import zlib
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st

from helium_jax.schedule import CallGraph, CallNode, Segment
from helium_jax.schedule.dispatch import Dispatcher, PrefixUse, ReadyCall, Release


@st.composite
def call_graphs(draw: st.DrawFn, *, max_nodes: int = 6, max_rows: int = 4) -> CallGraph:
    """Graphs with shared roles, shared row contexts, grouped columns and any dependencies."""
    num_rows = draw(st.integers(1, max_rows))
    values = {"topic": tuple(draw(st.integers(0, 1)) for _ in range(num_rows))}
    nodes: list[CallNode] = []
    for index in range(draw(st.integers(1, max_nodes))):
        names = [node.name for node in nodes]
        needs = (
            tuple(draw(st.lists(st.sampled_from(names), unique=True, max_size=3))) if names else ()
        )
        role = f"role{draw(st.integers(0, 2))}"
        segments = [Segment(key=role, num_tokens=draw(st.integers(1, 40)), is_static=True)]
        segments[0] = Segment(key=role, num_tokens=16 * (1 + int(role[-1])), is_static=True)
        if draw(st.booleans()):
            segments.append(Segment(key="topic", num_tokens=12, is_static=False, group="topic"))
        if draw(st.booleans()):
            segments.append(Segment(key="question", num_tokens=24, is_static=False))
        segments += [Segment(key=need, num_tokens=8, is_static=False) for need in needs]
        segments.append(Segment(key="", num_tokens=5, is_static=False))
        nodes.append(
            CallNode(
                name=f"op{index}",
                segments=tuple(segments),
                needs=needs,
                output_tokens=draw(st.integers(1, 30)),
                role=role,
            )
        )
    return CallGraph(nodes=tuple(nodes), num_rows=num_rows, values=values)


def prompt_of(
    graph: CallGraph, node: CallNode, row: int, frame: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Token ids of a call: equal exactly where the segments' identities say so."""
    ids: list[int] = []
    for place, segment in enumerate(node.segments):
        identity = graph.identity(segment, row) if segment.key else (node.name, row, place, frame)
        start = zlib.crc32(repr(identity).encode())
        ids += range(start, start + int(segment.num_tokens))
    return tuple(ids)


@dataclass
class Trace:
    """What happened: releases in order, and what was in flight after each event."""

    released: list[ReadyCall] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    finished: list[ReadyCall] = field(default_factory=list)
    in_flight: list[tuple[ReadyCall, ...]] = field(default_factory=list)
    uses: list[PrefixUse] = field(default_factory=list)


class Script:
    """Drives a dispatcher through a graph as a run's state would.

    Args:
        seed: of all draws: who finishes, what is coming late, which branches are not taken.
        branches: chance that an operator is closed for a row without a call (and what needs it).
        loops: chance that an operator calls once more for a row, as in a loop.
        failures: chance that a call ends without tokens.
        room: most calls in flight.
        stalled: (operator, row) pairs whose calls finish only when nothing else can.
        output_tokens: of every call instead of what the graph expects.
    """

    def __init__(
        self,
        graph: CallGraph,
        dispatcher: Dispatcher,
        *,
        seed: int = 0,
        branches: float = 0.0,
        loops: float = 0.0,
        failures: float = 0.0,
        room: int = 10_000,
        stalled: frozenset[tuple[str, int]] = frozenset(),
        output_tokens: int | None = None,
    ) -> None:
        self.graph = graph
        self.dispatcher = dispatcher
        self.draws = random.Random(seed)
        self.branches, self.loops, self.failures = branches, loops, failures
        self.room = room
        self.stalled = stalled
        self.output_tokens = output_tokens
        self.trace = Trace()
        self.calls: dict[int, ReadyCall] = {}
        self.coming: list[ReadyCall] = []
        self.flying: dict[int, ReadyCall] = {}
        self.missing = {
            (node.name, row): len(node.needs)
            for node in graph.nodes
            for row in range(graph.num_rows)
        }
        self.num_made: Counter[str] = Counter()

    def run(self) -> Trace:
        """To the end; every call that was made must have been released exactly once."""
        for row in range(self.graph.num_rows):
            for node in self.graph.nodes:
                if not node.needs:
                    self._call(node, row, ())
        while self.step():
            pass
        return self.trace

    def step(self) -> bool:
        """One event and the releases after it; False when everything is over."""
        if self.coming and (not self._free() or self.draws.random() < 0.7):
            self.dispatcher.ready(self.coming.pop(self.draws.randrange(len(self.coming))))
        elif self.flying:
            self._finish()
        elif len(self.trace.released) == len(self.calls):
            return False
        self._release()
        if not (self.coming or self.flying) and len(self.trace.released) < len(self.calls):
            stuck = [c for c in self.calls.values() if c not in self.trace.released]
            raise AssertionError(f"nothing moves any more; waiting: {stuck}")
        return True

    def arrive_all(self) -> None:
        """Makes every call that needs no other one ready, in a drawn order; releases nothing."""
        for row in range(self.graph.num_rows):
            for node in self.graph.nodes:
                if not node.needs:
                    self._call(node, row, ())
        self.draws.shuffle(self.coming)
        while self.coming:
            self.dispatcher.ready(self.coming.pop())

    def _release(self) -> None:
        releases = self.dispatcher.release(self.room - len(self.flying))
        assert len(releases) <= max(self.room - len(self.flying), 0)
        for release in releases:
            call = self.calls[release.call_id]
            assert call.call_id not in self.flying
            self.flying[call.call_id] = call
            self.trace.released.append(call)
            self.trace.releases.append(release)
            self.trace.in_flight.append(tuple(self.flying.values()))
        self.trace.uses += self.dispatcher.uses_changed()

    def _call(self, node: CallNode, row: int, frame: tuple[int, ...]) -> None:
        call = ReadyCall(
            call_id=len(self.calls),
            operator=node.name,
            row=row,
            token_ids=prompt_of(self.graph, node, row, frame),
            frame=frame,
        )
        self.calls[call.call_id] = call
        self.coming.append(call)
        self.dispatcher.coming(call.call_id, row)

    def _finish(self) -> None:
        call = self.flying.pop(self.draws.choice(self._free() or sorted(self.flying)))
        node = self.graph.by_name[call.operator]
        self.dispatcher.started(call.call_id)
        self.trace.uses += self.dispatcher.uses_changed()
        has_failed = self.draws.random() < self.failures
        tokens = int(node.output_tokens) if self.output_tokens is None else self.output_tokens
        self.dispatcher.finished(call.call_id, 0 if has_failed else tokens)
        self.trace.finished.append(call)
        if self.draws.random() < self.loops and len(call.frame) < 3:
            self._call(node, call.row, (*call.frame, 0))
            return
        self.dispatcher.closed(call.operator, call.row)
        for user in self.graph.users[call.operator]:
            if has_failed:
                self._skip(user, call.row)
            else:
                self._supply(user, call.row)

    def _free(self) -> list[int]:
        return sorted(
            call_id
            for call_id, call in self.flying.items()
            if (call.operator, call.row) not in self.stalled
        )

    def _supply(self, name: str, row: int) -> None:
        if self.missing[name, row] < 0:
            return  # skipped
        self.missing[name, row] -= 1
        if self.missing[name, row]:
            return
        if self.draws.random() < self.branches:
            self._skip(name, row)
        else:
            self._call(self.graph.by_name[name], row, ())

    def _skip(self, name: str, row: int) -> None:
        """The operator will not call for the row, nor will those that need it."""
        if self.missing[name, row] < 0:
            return
        self.missing[name, row] = -1
        self.dispatcher.closed(name, row)
        for user in self.graph.users[name]:
            self._skip(user, row)
