"""What the runs of a session share: generator, text, room at the engine, and answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from helium_jax.executor.codec import TextCodec
from helium_jax.executor.fair_gate import FairGate
from helium_jax.executor.options import RunOptions
from helium_jax.executor.output_cache import CachedOutput, OutputCache
from helium_jax.executor.output_cache_key import call_key
from helium_jax.plan import CallSettings
from helium_jax.types import Generator


@dataclass(slots=True)
class Claim:
    """The right to compute an answer, or the answer itself.

    Attributes:
        output: set when another call had computed it; to be set by who computes it.
    """

    output: CachedOutput | None = None


@dataclass(slots=True, kw_only=True)
class Resources:
    """Belongs to one event loop.

    Attributes:
        generator: the token side.
        codec: text to token ids and back, of the generator's model.
        gate: shares the engine's room between runs.
        output_cache: finished answers, if they are kept.
        on_their_way: by key, answers that some run is computing; None when it did not get one.
    """

    generator: Generator
    codec: TextCodec
    gate: FairGate
    output_cache: OutputCache | None = None
    on_their_way: dict[bytes, asyncio.Future[CachedOutput | None]] = field(default_factory=dict)

    def key(
        self, settings: CallSettings, token_ids: tuple[int, ...], options: RunOptions
    ) -> bytes | None:
        """The key of a call whose answer may be shared, or None."""
        is_shared = options.single_flight or options.output_cache
        if not is_shared or not token_ids:
            return None
        return call_key(self.generator.info, token_ids, settings, salt=options.cache_salt)

    def cached(self, key: bytes, options: RunOptions) -> CachedOutput | None:
        """The answer, if it is kept and may be used."""
        if self.output_cache is None or not options.output_cache:
            return None
        return self.output_cache.get(key)

    def put_meanwhile(self, key: bytes, options: RunOptions) -> CachedOutput | None:
        """The same for who has looked before; missing it again is not counted again."""
        if self.output_cache is None or self.output_cache.peek(key) is None:
            return None
        return self.cached(key, options)

    def keep(self, key: bytes, output: CachedOutput) -> None:
        """Keeps an answer for later calls and runs."""
        if self.output_cache is not None:
            self.output_cache.put(key, output)

    @contextlib.asynccontextmanager
    async def claim(self, key: bytes) -> AsyncIterator[Claim]:
        """Waits while others compute the answer; then gives theirs, or the right to compute it.

        Who comes out without an answer leaves the right to the next.
        """
        while (other := self.on_their_way.get(key)) is not None:
            # Shielded: who gives up waiting must not cancel the others' wait.
            output = await asyncio.shield(other)
            if output is not None:
                yield Claim(output=output)
                return
        future: asyncio.Future[CachedOutput | None] = asyncio.get_running_loop().create_future()
        self.on_their_way[key] = future
        claim = Claim()
        try:
            yield claim
        finally:
            del self.on_their_way[key]
            future.set_result(claim.output)
