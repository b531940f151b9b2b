"""Prefixes that a request wants to find again: pinned for a while after their last use."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from helium_jax.server.pins import Pins
from helium_jax.types import Generator, WarmPrefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What was done for the marks of one request.

    Attributes:
        computed: prompt tokens that were computed in order to be held.
        worker: where the longest of the prefixes is.
        warnings: what could not be held, and why.
    """

    computed: int = 0
    worker: int | None = None
    warnings: tuple[str, ...] = ()


async def hold_prefixes(
    prefixes: Sequence[tuple[tuple[int, ...], float]],
    *,
    generator: Generator,
    pins: Pins,
    tenant: str,
    salt: str,
    max_pins: int,
    now: float,
) -> Holding:
    """Computes prefixes that are not resident and pins them; those that are pinned stay longer.

    A pin is a preference (see `WarmPrefix.pin`), and the hints of one key give way to each other:
    the one that would end first leaves when there are `max_pins`.

    Args:
        prefixes: token ids, and for how many seconds to hold them; shorter ones first.
        generator: computes and pins.
        pins: of all keys.
        tenant: whose pins these are.
        salt: as in GenerateRequest.
        max_pins: most pins of a key.
        now: seconds since the epoch.
    """
    computed, worker = 0, None
    warnings: list[str] = []
    for token_ids, ttl_s in prefixes:
        name = _name(salt, token_ids)
        known = pins.renew(tenant, name, now=now, ttl_s=ttl_s, unpin=generator.unpin)
        if known is not None:
            worker = known.worker  # its pages may have been surrendered: then they are computed
            continue
        if not await pins.make_room(tenant, max_pins, generator.unpin):
            warnings.append(
                f"cache_control: not held, there are {max_pins} pins already; GET /v1/cache/pins"
            )
            continue
        receipt = await generator.warm(
            WarmPrefix(
                token_ids=token_ids,
                cache_salt=salt,
                pin=True,
                value=float(len(token_ids)),
                worker=worker,
            )
        )
        computed, worker = computed + receipt.computed, receipt.worker
        if receipt.pin_id is None:
            why = "shorter than a page" if not receipt.resident else "the pins' budget is spent"
            warnings.append(f"cache_control: {len(token_ids)} tokens are not held: {why}")
            continue
        pins.add(
            tenant,
            receipt.pin_id,
            worker=receipt.worker,
            tokens=receipt.resident,
            now=now,
            ttl_s=ttl_s,
            unpin=generator.unpin,
            name=name,
        )
    return Holding(computed=computed, worker=worker, warnings=tuple(warnings))


def _name(salt: str, token_ids: Sequence[int]) -> str:
    """Equal for equal prefixes under equal salts."""
    digest = hashlib.blake2b(person=b"helium-held", digest_size=16)
    digest.update(salt.encode() + b"\0")
    digest.update(b",".join(b"%d" % one for one in token_ids))
    return digest.hexdigest()
