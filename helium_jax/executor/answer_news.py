"""Answers of calls, told as they grow and when they are there, to those who asked for that."""

from collections.abc import Callable, Sequence

from helium_jax.executor.events import CallSource, Instruction, OpAnswer, OpDelta, Report
from helium_jax.executor.flight import Given
from helium_jax.executor.frames import Place


class AnswerNews:
    """Tells answers for the places that wait for them.

    Args:
        out: takes instructions.
        tells_deltas: report answers as they grow.
        tells_answers: report how every answer ended and what it cost.
    """

    def __init__(
        self, out: Callable[[Instruction], None], *, tells_deltas: bool, tells_answers: bool
    ) -> None:
        self._out = out
        self.tells_deltas = tells_deltas
        self._tells_answers = tells_answers

    def tell_value(self, places: Sequence[Place], text: str, told: str = "") -> None:
        """Tells what is left of a value, or all of it where something else was told."""
        if not text.startswith(told):
            self.tell(places, text, offset=0)
        elif len(text) > len(told):
            self.tell(places, text[len(told) :], offset=len(told))

    def tell(self, places: Sequence[Place], text: str, *, offset: int) -> None:
        """Tells a part of a value that begins at a character of it."""
        if not self.tells_deltas:
            return
        for frame, name in places:
            delta = OpDelta(
                operator=name, row=frame.row, text=text, offset=offset, index=frame.index
            )
            self._out(Report(progress=delta))

    def tell_answer(self, place: Place, given: Given, source: CallSource) -> None:
        """Tells how the answer of a place ended."""
        if not self._tells_answers:
            return
        frame, name = place
        answer = OpAnswer(
            operator=name,
            row=frame.row,
            source=source,
            usage=given.usage,
            finish_reason=given.finish_reason,
            index=frame.index,
        )
        self._out(Report(progress=answer))
