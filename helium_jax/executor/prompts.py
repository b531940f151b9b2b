"""A call's prompt as text: rendered from a frame's values, and told from others by a key."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from helium_jax.executor.frames import Frame, Place
from helium_jax.executor.values import Answer, Turns, Value, render
from helium_jax.physical import Generate
from helium_jax.plan import CallSettings

Look = Callable[[Frame, str], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a call says.

    Attributes:
        turns: its own (role, text) pairs; a bare prompt is one pair with the role None.
        history: the answer whose conversation comes before them.
    """

    turns: Turns
    history: Answer | None = None

    @property
    def conversation(self) -> Turns:
        """All turns."""
        before = () if self.history is None else self.history.conversation
        return (*before, *self.turns)


def step_at(place: Place) -> Generate:
    """The calling operator that stands at a place."""
    frame, name = place
    step = frame.scope.steps[name]
    assert isinstance(step, Generate), "only calls are asked for their prompt"
    return step


def render_prompt(place: Place, look: Look) -> Prompt | None:
    """The prompt of a call whose inputs are there; None if a text is too long to make."""
    frame, _ = place
    step = step_at(place)
    turns: list[tuple[str | None, str]] = []
    for turn in step.turns:
        text = render(turn.content, lambda slot: look(frame, slot))
        if text is None:
            return None
        turns.append((turn.role, text))
    if step.history is None:
        return Prompt(turns=tuple(turns))
    history = look(frame, step.history)
    assert isinstance(history, Answer), "the plan remembers every call that has followers"
    return Prompt(turns=tuple(turns), history=history)


def prompt_key(prompt: Prompt, settings: CallSettings) -> bytes | None:
    """Equal keys mean equal answers; None for a call that must be made on its own."""
    if not settings.cache.results or not settings.sampling.is_deterministic:
        return None
    history = prompt.history
    # The ids of a conversation that goes on are part of its prompt, not only its text.
    before = None if history is None else (history.prompt_ids, history.token_ids)
    spelled = repr(
        (prompt.conversation, before, settings.sampling, settings.stop, settings.response_format)
    )
    # Texts may hold lone surrogates, which have no UTF-8.
    return hashlib.blake2b(spelled.encode("utf-8", "surrogatepass"), digest_size=20).digest()
