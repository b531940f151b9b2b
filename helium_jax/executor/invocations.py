"""The functions of a plan's author while they run: pure ones with equal texts once."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from helium_jax.executor.events import CallFunction, CancelFunction, Instruction
from helium_jax.executor.frames import Place
from helium_jax.physical import Invoke

Key = tuple[str, tuple[str, ...]]


@dataclass(slots=True, kw_only=True)
class _Invocation:
    key: Key | None
    waiting: list[Place]


class Invocations:
    """Owns the invocations of one run; part of a `RunState`, to whose instructions it adds."""

    def __init__(self, out: Callable[[Instruction], None], *, merges: bool) -> None:
        """
        Args:
            out: takes instructions.
            merges: whether a pure function is called once for equal texts.
        """
        self._out = out
        self._merges = merges
        self._ids = itertools.count()
        self._running: dict[int, _Invocation] = {}
        self._leaders: dict[Key, int] = {}
        self._texts: dict[Key, str] = {}

    @property
    def num_running(self) -> int:
        """Functions that have not returned."""
        return len(self._running)

    def start(self, place: Place, step: Invoke, args: tuple[str, ...]) -> str | None:
        """Begins a call, waits for an equal one, or gives the text that an equal one gave."""
        frame, name = place
        key = (step.function.name, args) if step.function.is_pure and self._merges else None
        if key is not None and key in self._texts:
            return self._texts[key]
        if key is not None and key in self._leaders:
            frame.running[name] = self._leaders[key]
            self._running[self._leaders[key]].waiting.append(place)
            return None
        invocation_id = next(self._ids)
        frame.running[name] = invocation_id
        self._running[invocation_id] = _Invocation(key=key, waiting=[place])
        if key is not None:
            self._leaders[key] = invocation_id
        self._out(CallFunction(invocation_id=invocation_id, function=step.function, args=args))
        return None

    def leave(self, place: Place, invocation_id: int) -> None:
        """A place does not want its text any more; without others that do, nobody waits for it."""
        invocation = self._running.get(invocation_id)
        if invocation is not None:
            invocation.waiting.remove(place)
            if not invocation.waiting:
                self.take(invocation_id)
                self._out(CancelFunction(invocation_id=invocation_id))

    def take(self, invocation_id: int, text: str | None = None) -> list[Place]:
        """Ends an invocation, with a text or without; returns those that waited for it."""
        invocation = self._running.pop(invocation_id, None)
        if invocation is None:
            return []
        if invocation.key is not None:
            del self._leaders[invocation.key]
            if text is not None:
                self._texts[invocation.key] = text
        return invocation.waiting

    def end(self) -> None:
        """Cancels everything."""
        for invocation_id in self._running:
            self._out(CancelFunction(invocation_id=invocation_id))
        self._running.clear()
