"""Prefixes that clients had pinned, by key, until they are given back or their time is over."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec

from helium_jax.errors import HeliumError
from helium_jax.server.errors import NotFoundError
from helium_jax.server.plans.replies import PinReply

log = logging.getLogger(__name__)

Unpin = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pin:
    tenant: str
    handle: int
    reply: PinReply
    timer: asyncio.TimerHandle | None
    name: str | None


class Pins:
    """Pins of every key; belongs to the event loop."""

    def __init__(self) -> None:
        self._pins: dict[str, _Pin] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self,
        tenant: str,
        handle: int,
        *,
        worker: int,
        tokens: int,
        now: float,
        ttl_s: float | None,
        unpin: Unpin,
        name: str | None = None,
    ) -> PinReply:
        """Notes a pin of the generator's, and gives it back by `unpin` when `ttl_s` is over.

        A pin with a name can be renewed, and gives way in `make_room`.
        """
        pin_id = f"pin_{secrets.token_hex(8)}"
        timer = self._start_timer(pin_id, ttl_s, unpin)
        reply = PinReply(
            id=pin_id,
            worker=worker,
            tokens=tokens,
            created=now,
            expires=None if ttl_s is None else now + ttl_s,
        )
        self._pins[pin_id] = _Pin(tenant=tenant, handle=handle, reply=reply, timer=timer, name=name)
        return reply

    def renew(
        self, tenant: str, name: str, *, now: float, ttl_s: float, unpin: Unpin
    ) -> PinReply | None:
        """A key's pin of that name, which now ends in `ttl_s` or when it was to end, if later."""
        for pin_id, pin in self._pins.items():
            if pin.tenant != tenant or pin.name != name:
                continue
            if pin.timer is not None and (pin.reply.expires or 0) < now + ttl_s:
                pin.timer.cancel()
                self._pins[pin_id] = pin = replace(
                    pin,
                    reply=msgspec.structs.replace(pin.reply, expires=now + ttl_s),
                    timer=self._start_timer(pin_id, ttl_s, unpin),
                )
            return pin.reply
        return None

    async def make_room(self, tenant: str, max_pins: int, unpin: Unpin) -> bool:
        """Whether a key has less than `max_pins`, once its named pin that would end first is given
        back if need be."""
        own = {pin_id: pin for pin_id, pin in self._pins.items() if pin.tenant == tenant}
        if len(own) < max_pins:
            return True
        named = [pin_id for pin_id, pin in own.items() if pin.name is not None]
        if not named:
            return False
        await self.remove(tenant, min(named, key=lambda i: own[i].reply.expires or 0), unpin)
        return True

    def list(self, tenant: str) -> list[PinReply]:
        """A key's pins, the latest first."""
        return [pin.reply for pin in reversed(self._pins.values()) if pin.tenant == tenant]

    async def remove(self, tenant: str, pin_id: str, unpin: Unpin) -> None:
        """Gives a key's pin back.

        Raises:
            NotFoundError: this key has none of that id.
        """
        pin = self._pins.get(pin_id)
        if pin is None or pin.tenant != tenant:
            raise NotFoundError(
                f"there is no pin {pin_id[:80]!r}; GET /v1/cache/pins lists what there is",
                code="pin_not_found",
                param="pin_id",
            )
        del self._pins[pin_id]
        if pin.timer is not None:
            pin.timer.cancel()
        await unpin(pin.handle)

    def close(self) -> None:
        """Forgets the timers; the pages end with the engine."""
        for pin in self._pins.values():
            if pin.timer is not None:
                pin.timer.cancel()
        self._pins.clear()

    def _start_timer(
        self, pin_id: str, ttl_s: float | None, unpin: Unpin
    ) -> asyncio.TimerHandle | None:
        if ttl_s is None:
            return None
        return asyncio.get_running_loop().call_later(ttl_s, self._expire, pin_id, unpin)

    def _expire(self, pin_id: str, unpin: Unpin) -> None:
        pin = self._pins.pop(pin_id)
        task = asyncio.create_task(_give_back(pin.handle, unpin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _give_back(handle: int, unpin: Unpin) -> None:
    try:
        await unpin(handle)
    except HeliumError as error:
        log.warning("a pin could not be given back: %s", error)
