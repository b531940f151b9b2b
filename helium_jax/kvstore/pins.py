"""Pins: which blocks somebody asked to keep, for how much, and whose pin goes first."""

from collections.abc import Callable
from dataclasses import dataclass

from helium_jax.errors import RequestError
from helium_jax.kvstore.prefix_index import Block


@dataclass(slots=True, eq=False, kw_only=True)
class Pin:
    """One pin.

    Attributes:
        value: what keeping it is worth, such as expected uses x tokens.
        blocks: the leading blocks of a prefix that it keeps; empty once it was surrendered.
    """

    value: float
    blocks: list[Block]


class Pins:
    """All pins of a store by id. Counts nothing of the pool: `Store` does what they ask for.

    Attributes:
        next_id: of the next pin.
    """

    __slots__ = ("_first_id", "_pins", "next_id")

    def __init__(self, first_id: int = 1) -> None:
        self._pins: dict[int, Pin] = {}
        self._first_id = first_id
        self.next_id = first_id

    def add(self, blocks: list[Block], value: float) -> int:
        """Notes a pin; returns its id."""
        pin_id = self.next_id
        self.next_id += 1
        self._pins[pin_id] = Pin(value=value, blocks=blocks)
        return pin_id

    def remove(self, pin_id: int) -> list[Block]:
        """Forgets a pin; returns what it kept.

        Raises:
            RequestError: there is no such pin.
        """
        if 0 < pin_id < self._first_id:
            return []
        pin = self._pins.pop(pin_id, None)
        if pin is None:
            raise RequestError(
                f"{pin_id=} is not pinned (any more); use the pin_id that warming returned, once"
            )
        return pin.blocks

    def surrender(self, may_go: Callable[[Pin], bool]) -> list[Block]:
        """Empties the least valuable pin that may go, the oldest among equals; returns what it
        kept. Its id stays valid until it is given back. Nothing when none may go."""
        candidates = (pin for pin in self._pins.values() if pin.blocks and may_go(pin))
        pin = min(candidates, key=lambda pin: pin.value, default=None)
        if pin is None:
            return []
        blocks, pin.blocks = pin.blocks, []
        return blocks

    def held(self) -> tuple[list[Block], ...]:
        """What each pin keeps."""
        return tuple(pin.blocks for pin in self._pins.values())
