"""One batch as the server knows it, which the service changes, and what the journal keeps of it."""

import asyncio
from dataclasses import dataclass, field

import msgspec

from helium_jax.executor.journal import JournaledRun
from helium_jax.server.batches.lines import is_answer
from helium_jax.server.files.bodies import BatchReply, RequestCounts

BATCH_PREFIX = "batch_"  # of ids
REPLY = "reply"  # the note of what clients see
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(slots=True, kw_only=True)
class BatchRecord:
    """One batch.

    Attributes:
        tenant: whose key asked for it.
        reply: as clients see it.
        output_ttl_s: how long its output is kept; None: until it is deleted.
        task: answers its lines; None for a batch that was over before the server began.
        answers: lines of the output file by their place in the input; empty once they are written.
        failures: the same of the error file.
    """

    tenant: str
    reply: BatchReply
    output_ttl_s: float | None
    task: asyncio.Task[None] | None = None
    answers: dict[int, bytes] = field(default_factory=dict)
    failures: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Nothing more will happen."""
        return self.reply.status in FINAL

    @property
    def num_done(self) -> int:
        """Lines that need no further work."""
        return len(self.answers) + len(self.failures)

    def is_done(self, index: int) -> bool:
        """Whether a line needs no further work."""
        return index in self.answers or index in self.failures

    def put(self, index: int, written: bytes, *, failed: bool) -> None:
        """Keeps a line that is done, and counts it."""
        (self.failures if failed else self.answers)[index] = written
        self.count(self.reply.request_counts.total)

    def count(self, total: int) -> None:
        """Says how many lines there are, and how many are done."""
        counts = RequestCounts(total=total, completed=len(self.answers), failed=len(self.failures))
        self.reply = msgspec.structs.replace(self.reply, request_counts=counts)


class KeptBatch(msgspec.Struct, kw_only=True, frozen=True):
    """A batch's request.

    Attributes:
        tenant: whose key asked.
        reply: as it was told when it was made.
        output_ttl_s: how long its output is kept.
    """

    tenant: str
    reply: BatchReply
    output_ttl_s: float | None


def pack_batch(batch: BatchRecord) -> bytes:
    """The bytes of a batch's request."""
    kept = KeptBatch(tenant=batch.tenant, reply=batch.reply, output_ttl_s=batch.output_ttl_s)
    return msgspec.json.encode(kept)


def restore_batch(found: JournaledRun) -> BatchRecord:
    """The batch of an earlier process, with the lines that are done.

    Raises:
        ValueError: the entry cannot be read.
    """
    kept = msgspec.json.decode(found.request, type=KeptBatch)
    reply = kept.reply
    if REPLY in found.notes:
        reply = msgspec.json.decode(found.notes[REPLY], type=BatchReply)
    batch = BatchRecord(tenant=kept.tenant, reply=reply, output_ttl_s=kept.output_ttl_s)
    for index, written in found.rows.items():
        (batch.answers if is_answer(written) else batch.failures)[index] = written
    if not batch.is_final:
        batch.count(reply.request_counts.total)
    return batch
