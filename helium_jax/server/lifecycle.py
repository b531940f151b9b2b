"""How far a server's life has come: what works in it just now, and whether it is to end."""

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class ServerState:
    """Progress of one server: owned by its application, changed by `admission` and the shutdown.

    Attributes:
        working: tasks that answer a request for tokens just now.
        draining: set by the first signal: not ready, no new work.
        is_aborting: set when the drain has taken too long: running work is told to end.
    """

    working: set[asyncio.Task[object]] = field(default_factory=set)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    is_aborting: bool = False

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused."""
        return self.draining.is_set()

    def drain(self) -> None:
        """Refuses new work from now on."""
        self.draining.set()

    def abort(self) -> None:
        """Ends running work; each of its clients gets a shutting_down error."""
        self.is_aborting = True
        self.drain()
        for task in self.working:
            task.cancel()
