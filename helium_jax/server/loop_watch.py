"""How long the event loop was kept from turning: whatever blocks it delays every client."""

import asyncio

from helium_jax.telemetry.metrics import Kind, Reading

PERIOD_S = 0.01


class LoopWatch:
    """A timer that notes how late it was; blocks shorter than its period may hide in it.

    Attributes:
        max_block_s: the latest it was since the start, or since `forget`.
    """

    def __init__(self) -> None:
        self.max_block_s = 0.0
        self._total_s = 0.0

    async def run(self) -> None:
        """Watches the running loop; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            late_s = max(loop.time() - due, 0.0)
            self.max_block_s = max(self.max_block_s, late_s)
            self._total_s += late_s

    def forget(self) -> None:
        """Begins anew."""
        self.max_block_s = 0.0

    def read(self) -> list[Reading]:
        """The longest block, the sum of all, and how many tasks there are."""
        return [
            _reading(
                "max_block_seconds",
                "gauge",
                "Longest time since the start for which the event loop did not turn",
                self.max_block_s,
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
