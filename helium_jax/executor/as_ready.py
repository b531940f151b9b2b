"""The dispatcher of a run without a plan for its calls: each goes out as soon as it is ready."""

import heapq

from helium_jax.schedule.dispatch import PrefixUse, ReadyCall, Release


class AsReady:
    """Releases ready calls while there is room: the most urgent first, then the lowest row.

    Rows finish early that way, and a row's calls follow each other while the KV pages of its
    prompts are still in the store.
    """

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, int]] = []  # priority, row, call id
        self._ready: dict[int, ReadyCall] = {}

    @property
    def warms(self) -> bool:
        return False

    def coming(self, call_id: int, row: int) -> None:
        """Of no interest here: nothing waits for what is coming."""

    def ready(self, call: ReadyCall) -> None:
        self._ready[call.call_id] = call
        heapq.heappush(self._queue, (call.priority, call.row, call.call_id))

    def started(self, call_id: int) -> None:
        """Of no interest here: nothing is known of later uses."""

    def finished(self, call_id: int, output_tokens: int) -> None:
        self._ready.pop(call_id, None)

    def closed(self, operator: str, row: int) -> None:
        """Of no interest here: there are no barriers."""

    def computed_early(self, operator: str, row: int) -> int | None:
        """Of no interest here: no later use of a row's own pages is told."""

    def lost(self, worker: int) -> None:
        """Of no interest here: nothing is placed."""

    def release(self, room: int) -> list[Release]:
        releases: list[Release] = []
        while self._queue and len(releases) < room:
            _, _, call_id = heapq.heappop(self._queue)
            call = self._ready.pop(call_id, None)
            if call is not None:
                releases.append(Release(call_id=call_id, priority=call.priority))
        return releases

    def uses_changed(self) -> list[PrefixUse]:
        return []
