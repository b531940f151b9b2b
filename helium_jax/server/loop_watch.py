"""How long the event loop was kept from turning: whatever blocks it delays every client."""

import asyncio
import time

from helium_jax.telemetry.metrics import Kind, Reading

PERIOD_S = 0.01


class LoopWatch:
    """A timer that notes how late it was; blocks shorter than its period may hide in it.

    Attributes:
        max_block_s: the latest it was since the start, or since `forget`.
        max_busy_s: the longest of that for which the loop's own thread was computing; the rest it
            waited for other threads, or for a processor that others had.
    """

    def __init__(self) -> None:
        self.max_block_s = self.max_busy_s = 0.0
        self._total_s = 0.0

    async def run(self) -> None:
        """Watches the running loop; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            due, computed_s = loop.time() + PERIOD_S, time.thread_time()
            await asyncio.sleep(PERIOD_S)
            late_s = max(loop.time() - due, 0.0)
            self.max_block_s = max(self.max_block_s, late_s)
            self.max_busy_s = max(self.max_busy_s, min(late_s, time.thread_time() - computed_s))
            self._total_s += late_s

    def forget(self) -> None:
        """Begins anew."""
        self.max_block_s = self.max_busy_s = 0.0

    def read(self) -> list[Reading]:
        """The longest block and its busy part, the sum of all, and how many tasks there are."""
        return [
            _reading(
                "max_block_seconds",
                "gauge",
                "Longest time since the start for which the event loop did not turn",
                self.max_block_s,
            ),
            _reading(
                "max_busy_seconds",
                "gauge",
                "Longest of these times for which the event loop's own thread was computing",
                self.max_busy_s,
            ),
            _reading(
                "blocked_seconds_total",
                "counter",
                "Time for which the event loop did not turn",
                self._total_s,
            ),
            _reading(
                "tasks",
                "gauge",
                "Tasks of the event loop that are not done",
                len(asyncio.all_tasks()),
            ),
        ]


def _reading(name: str, kind: Kind, help_: str, value: float) -> Reading:
    return Reading(name=f"event_loop_{name}", kind=kind, help=help_, value=value, labels={})
