"""A handle to cancel parts of a run from outside while it goes on."""

from collections.abc import Callable

from helium_jax.executor.events import CancelOperator, CancelRequested, CancelRow, Event


class RunControl:
    """Cancels a run, a row or an operator; belongs to the run's event loop.

    What is asked before the run begins counts from its start; after its end nothing has an effect.
    Calls that nobody else waits for end within one step of the engine.
    """

    def __init__(self) -> None:
        self._early: list[Event] = []
        self._send: Callable[[Event], None] = self._early.append

    def cancel(self) -> None:
        """Ends the run with what it has."""
        self._send(CancelRequested())

    def cancel_row(self, row: int) -> None:
        """Gives up what a row, counted from 0, has not computed yet."""
        self._send(CancelRow(row=row))

    def cancel_operator(self, name: str) -> None:
        """Gives up an operator, and with it what needs it, for every row that lacks its value."""
        self._send(CancelOperator(operator=name))

    def attach(self, send: Callable[[Event], None]) -> None:
        """Connects the handle to its run; for the executor."""
        self._send = send
        for event in self._early:
            send(event)
        self._early = []
