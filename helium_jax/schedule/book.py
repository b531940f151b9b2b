"""What every policy keeps of its calls, and the dispatcher that is made of one rule over it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import PrefixUse, ReadyCall, Release


class Book:
    """Which calls are coming, ready and in flight.

    Attributes:
        ready: calls that may be released, in the order in which they became ready.
        in_flight: calls that were released and are not over.
        workers: engines that are there.
    """

    __slots__ = ("_busy_rows", "_coming", "in_flight", "ready", "workers")

    def __init__(self, num_workers: int) -> None:
        self.ready: dict[int, ReadyCall] = {}
        self.in_flight: dict[int, ReadyCall] = {}
        self.workers = list(range(num_workers))
        self._coming: dict[int, int] = {}
        self._busy_rows: Counter[int] = Counter()

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight and nothing is coming: what is ready is all there can be."""
        return not self._coming and not self.in_flight

    def is_row_idle(self, row: int) -> bool:
        """The same for one row."""
        return self._busy_rows[row] == 0

    def expect(self, call_id: int, row: int) -> None:
        """Notes a call that is being prepared."""
        self._coming[call_id] = row
        self._busy_rows[row] += 1

    def add(self, call: ReadyCall) -> None:
        """Notes a call that may be released."""
        self._arrive(call.call_id)
        self.ready[call.call_id] = call

    def start(self, call_id: int) -> ReadyCall:
        """Moves a ready call into flight."""
        call = self.ready.pop(call_id)
        self.in_flight[call_id] = call
        self._busy_rows[call.row] += 1
        return call

    def end(self, call_id: int) -> ReadyCall | None:
        """Forgets a call; returns it if it was in flight."""
        self._arrive(call_id)
        self.ready.pop(call_id, None)
        call = self.in_flight.pop(call_id, None)
        if call is not None:
            self._busy_rows[call.row] -= 1
        return call

    def in_order(self) -> list[ReadyCall]:
        """The ready calls, the most urgent first, then first come, first served."""
        return sorted(self.ready.values(), key=_priority)

    def _arrive(self, call_id: int) -> None:
        row = self._coming.pop(call_id, None)
        if row is not None:
            self._busy_rows[row] -= 1


class RuleDispatcher:
    """A dispatcher that is a rule: what to release, given the book and the room.

    Args:
        rule: chooses at most `room` of `book.ready`; called only when there is room and something
            may have changed. Policies that plan ahead are dispatchers of their own.
        num_workers: engines.
        warms: see `Dispatcher.warms`.
    """

    def __init__(
        self,
        rule: Callable[[Book, int], list[Release]],
        *,
        num_workers: int,
        warms: bool = False,
    ) -> None:
        self._rule = rule
        self._book = Book(num_workers)
        self._warms = warms
        self._has_changed = False

    @property
    def warms(self) -> bool:
        return self._warms

    def coming(self, call_id: int, row: int) -> None:
        self._book.expect(call_id, row)

    def ready(self, call: ReadyCall) -> None:
        self._book.add(call)
        self._has_changed = True

    def started(self, call_id: int) -> None:
        """Of no interest here."""

    def finished(self, call_id: int, output_tokens: int) -> None:
        self._book.end(call_id)
        self._has_changed = True

    def closed(self, operator: str, row: int) -> None:
        """Of no interest here: barriers go by what is coming and in flight."""

    def computed_early(self, operator: str, row: int) -> int | None:
        """Of no interest here: no later use of a row's own pages is told."""

    def lost(self, worker: int) -> None:
        if worker in self._book.workers:
            self._book.workers.remove(worker)

    def release(self, room: int) -> list[Release]:
        if room <= 0 or not self._has_changed or not self._book.ready:
            return []
        releases = self._rule(self._book, room)
        for release in releases:
            self._book.start(release.call_id)
        self._has_changed = len(releases) == room  # there may be more
        return releases

    def uses_changed(self) -> list[PrefixUse]:
        return []


def send(calls: Iterable[ReadyCall]) -> list[Release]:
    """Releases without a wish: any worker, nothing known of later uses."""
    return [Release(call_id=call.call_id, priority=call.priority) for call in calls]


def operator_order(graph: CallGraph) -> Callable[[ReadyCall], tuple[int, tuple[int, ...], str]]:
    """A key that sorts calls by their operator's topological place, then by iteration.

    Operators that the graph does not have come last.
    """
    places: Mapping[str, int] = {node.name: place for place, node in enumerate(graph.nodes)}
    last = len(places)
    return lambda call: (places.get(call.operator, last), call.frame, call.operator)


def _priority(call: ReadyCall) -> int:
    return call.priority
