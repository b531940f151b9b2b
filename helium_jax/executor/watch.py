"""A look at a run while it goes on, and at its prompts afterwards; bounded."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from helium_jax.executor.events import Call
from helium_jax.executor.result import CallSpan

Place = tuple[str, int, tuple[int, ...]]
_ENTRY_BYTES = 256  # of a kept prompt, besides its ids


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPrompt:
    """A call's prompt as the model saw it.

    Attributes:
        operator: who called.
        row: for which row.
        index: the iterations and items it stood in, outermost first.
        token_ids: of the prompt.
    """

    operator: str
    row: int
    index: tuple[int, ...]
    token_ids: "array[int]"


class RunWatch:
    """What one run's calls say and when; belongs to the run's event loop.

    Calls that were not made (equal ones of other rows) have no prompt here.
    """

    def __init__(self, *, max_bytes: int) -> None:
        """
        Args:
            max_bytes: of kept prompts; what comes later is not kept.
        """
        self._room = max_bytes
        self._prompts: dict[Place, KeptPrompt] = {}
        self._look: Callable[[], tuple[CallSpan, ...]] | None = None
        self.num_bytes = 0
        self.is_whole = True

    @property
    def prompts(self) -> tuple[KeptPrompt, ...]:
        """Those that are kept, in the order in which they were encoded."""
        return tuple(self._prompts.values())

    def prompt(self, operator: str, row: int, index: tuple[int, ...]) -> KeptPrompt | None:
        """A call's prompt, if it was made and is kept."""
        return self._prompts.get((operator, row, index))

    def spans(self) -> tuple[CallSpan, ...]:
        """The calls of the run so far; none before its start and after its end."""
        return () if self._look is None else self._look()

    # --- for the executor ------------------------------------------------------------------

    def attach(self, look: Callable[[], tuple[CallSpan, ...]]) -> None:
        """The run begins."""
        self._look = look

    def detach(self) -> None:
        """The run is over: its result has the spans."""
        self._look = None

    def prompted(self, call: Call, token_ids: tuple[int, ...]) -> None:
        """A call's prompt is token ids."""
        size = 4 * len(token_ids) + _ENTRY_BYTES
        if self.num_bytes + size > self._room:
            self.is_whole = False
            return
        self.num_bytes += size
        self._prompts[call.operator, call.row, call.index] = KeptPrompt(
            operator=call.operator, row=call.row, index=call.index, token_ids=array("i", token_ids)
        )
