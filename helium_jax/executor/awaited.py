"""From how many steps of a row each call may still come, so that the last one closes it.

A call in nested branches, loops, maps and races may come from many frames, and from some that have
not begun. Every step that is not over counts for the calls that it is or holds; a control operator
that runs counts only for those of frames that it may begin later, for the frames count themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterable


class Awaited:
    """Counts the steps of one run that calls may come from; part of a `Flow`."""

    def __init__(self, closed: Callable[[str, int], None]) -> None:
        """
        Args:
            closed: told the operator and the row when no further call of it will come.
        """
        self._closed = closed
        self._counts: Counter[tuple[str, int]] = Counter()

    @property
    def is_empty(self) -> bool:
        """Whether no further call will come in any row."""
        return not self._counts

    def expect(self, row: int, calls: Iterable[str]) -> None:
        """Notes a step from which these calls may come."""
        for call in calls:
            self._counts[call, row] += 1

    def release(self, row: int, calls: Iterable[str]) -> None:
        """Notes that they will not come from it any more."""
        for call in calls:
            self._counts[call, row] -= 1
            if not self._counts[call, row]:
                del self._counts[call, row]
                self._closed(call, row)
