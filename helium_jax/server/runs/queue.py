"""Runs that wait for a place: by priority, then in the order in which they came."""

import heapq
import itertools

from helium_jax.errors import CapacityError
from helium_jax.server.runs.record import RunRecord


class RunQueue:
    """A bounded queue; who pushes has asked `check_room` before."""

    def __init__(self, *, max_runs: int) -> None:
        self._max_runs = max_runs
        self._entries: list[tuple[int, int, RunRecord]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def check_room(self) -> None:
        """Returns if one more run may wait.

        Raises:
            CapacityError: there are too many.
        """
        if len(self._entries) >= self._max_runs:
            raise CapacityError(
                f"{len(self._entries)} runs are waiting, this server's limit; try again later",
                retry_after_s=5,
            )

    def push(self, record: RunRecord) -> None:
        """Lets a run wait."""
        entry = (record.job.options.priority, next(self._order), record)
        heapq.heappush(self._entries, entry)

    def pop(self) -> RunRecord:
        """Takes the run whose turn it is."""
        return heapq.heappop(self._entries)[2]

    def discard(self, record: RunRecord) -> None:
        """Takes out a run that nobody wants any more."""
        self._entries = [entry for entry in self._entries if entry[2] is not record]
        heapq.heapify(self._entries)
