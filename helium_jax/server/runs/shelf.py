"""The runs that can be asked for, by key, and the Idempotency-Keys that made them; bounded."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helium_jax.server.config import Limits
from helium_jax.server.errors import ConflictError, NotFoundError
from helium_jax.server.runs.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a client's Idempotency-Key stands for.

    Attributes:
        digest: of the body it came with.
        run_id: of the run it made.
    """

    digest: bytes
    run_id: str


class RunShelf:
    """Every run until it is forgotten; of those that are over the oldest are, for want of room."""

    def __init__(self, limits: Limits, *, on_forgotten: Callable[[RunRecord], None]) -> None:
        """
        Args:
            limits: how many runs that are over are kept, and how large they may be together.
            on_forgotten: called with every run that leaves.
        """
        self._limits = limits
        self._on_forgotten = on_forgotten
        self._runs: OrderedDict[str, RunRecord] = OrderedDict()  # the earliest asked for first
        self._over: OrderedDict[str, int] = OrderedDict()  # runs that are over and their bytes
        self._over_bytes = 0
        self._promises: dict[tuple[str, str], Promise] = {}

    @property
    def num_over(self) -> int:
        """Runs that are over and can be asked for."""
        return len(self._over)

    def add(self, record: RunRecord, promise_key: str | None, digest: bytes) -> None:
        """Makes a run known, also under an Idempotency-Key."""
        self._runs[record.id] = record
        if promise_key is not None:
            promise = Promise(digest=digest, run_id=record.id)
            self._promises[record.tenant, promise_key] = promise

    def get(self, tenant: str, run_id: str) -> RunRecord:
        """A key's run.

        Raises:
            NotFoundError: this key has none of that id.
        """
        record = self._runs.get(run_id)
        if record is None or record.tenant != tenant:
            raise NotFoundError(
                f"there is no run {run_id[:80]!r}; finished runs are kept for a while only",
                code="run_not_found",
                param="run_id",
            )
        return record

    def promised(self, tenant: str, promise_key: str | None, digest: bytes) -> RunRecord | None:
        """The run that was made under an Idempotency-Key, if there is one.

        Raises:
            ConflictError: the key was used with another body.
        """
        promise = None if promise_key is None else self._promises.get((tenant, promise_key))
        if promise is None:
            return None
        if promise.digest != digest:
            raise ConflictError(
                "this Idempotency-Key came with another body before; use a new key",
                code="idempotency_conflict",
                param="Idempotency-Key",
            )
        return self._runs[promise.run_id]

    def list_runs(self, tenant: str) -> Sequence[RunRecord]:
        """A key's runs, the latest first."""
        return [record for record in reversed(self._runs.values()) if record.tenant == tenant]

    def unfinished(self) -> Sequence[RunRecord]:
        """Every key's runs that are not over."""
        return [record for record in self._runs.values() if not record.is_final]

    def note_over(self, record: RunRecord) -> None:
        """Makes room for a run that is over by forgetting the oldest that are."""
        size = record.num_bytes
        self._over[record.id] = size
        self._over_bytes += size
        while len(self._over) > 1 and (
            len(self._over) > self._limits.runs_kept or self._over_bytes > self._limits.runs_bytes
        ):
            self.forget(next(iter(self._over)))

    def note_resumed(self, record: RunRecord) -> None:
        """Keeps a run whatever the room: it goes on."""
        self._over_bytes -= self._over.pop(record.id, 0)

    def forget(self, run_id: str) -> None:
        """Takes a run from the shelf."""
        record = self._runs.pop(run_id)
        self._over_bytes -= self._over.pop(run_id, 0)
        for key in [key for key, promise in self._promises.items() if promise.run_id == run_id]:
            del self._promises[key]
        self._on_forgotten(record)
