"""A batch's two files, written at its end; for want of room they wait."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from helium_jax.errors import CapacityError, HeliumError
from helium_jax.server.batches.record import BatchRecord
from helium_jax.server.files.bodies import BatchError, BatchErrors
from helium_jax.server.files.store import FileStore, new_file_id
from helium_jax.server.lifecycle import ServerState

ROOM_INTERVAL_S = 1.0  # between two looks for room


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFiles:
    """Writes what batches have come to.

    Attributes:
        store: where it goes.
        state: of the server: once it drains, nothing is waited for.
        now: seconds since the epoch.
    """

    store: FileStore
    state: ServerState
    now: Callable[[], float]

    async def write(
        self, batch: BatchRecord, failures: Mapping[int, bytes], *, may_wait: bool
    ) -> tuple[str | None, str | None]:
        """The ids of the output file and the error file; None for one without lines.

        While there is no room and `may_wait`, the batch says so in its `errors`.

        Raises:
            CapacityError: there is no room, and no more time to wait for it.
        """
        while True:
            try:
                output = await self._write(batch, "output", batch.answers)
                return output, await self._write(batch, "error", failures)
            except CapacityError as error:
                is_late = self.now() >= batch.reply.expires_at
                if not may_wait or is_late or self.state.is_draining:
                    raise
                batch.reply = msgspec.structs.replace(batch.reply, errors=describe_error(error))
                await asyncio.sleep(ROOM_INTERVAL_S)

    async def _write(self, batch: BatchRecord, what: str, lines: Mapping[int, bytes]) -> str | None:
        if not lines:
            return None
        seed = hashlib.blake2b(f"{batch.reply.id} {what}".encode(), digest_size=12).digest()
        file = await self.store.add(
            batch.tenant,
            b"\n".join(lines[index] for index in sorted(lines)) + b"\n",
            filename=f"{batch.reply.id}_{what}.jsonl",
            purpose="batch_output",
            ttl_s=batch.output_ttl_s,
            file_id=new_file_id(seed),  # written once more if the server dies meanwhile
        )
        return file.id


def describe_error(error: HeliumError) -> BatchErrors:
    """What keeps a batch from going on, as clients see it."""
    told = BatchError(code=error.code, message=error.message, param=error.param)
    return BatchErrors(data=[told])
