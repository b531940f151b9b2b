"""Profiles of earlier runs in a folder, one JSON file per plan."""

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from helium_jax.errors import RequestError
from helium_jax.optimizer.profile import OperatorProfile, Profile

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 2**20
_PLAN_ID = re.compile(r"[A-Za-z0-9_]{1,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedProfile:
    """One file of the folder.

    Attributes:
        plan_id: of the plan; the same plan twice has one profile.
        plan_name: for people.
        num_runs: that it sums up.
        saved_at: when the last of them ended, in seconds since the epoch.
        profile: their sum.
    """

    plan_id: str
    plan_name: str
    num_runs: int
    saved_at: float
    profile: Profile


class ProfileStore:
    """Reads and writes the folder; several processes may, the last writer of a plan wins.

    A profile is a help and never a condition: a file that cannot be read or written costs a
    warning in the log and the estimates it would have given.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            folder: is made when the first profile is saved.
            clock: seconds since the epoch.
        """
        self._folder = folder
        self._clock = clock

    def load(self, plan_id: str) -> Profile:
        """What earlier runs of the plan have shown; empty if there is nothing to read."""
        saved = self._read(self._path(plan_id))
        return saved.profile if saved is not None else Profile()

    def add(self, plan_id: str, profile: Profile, *, plan_name: str = "") -> None:
        """Adds a run's profile to those of earlier runs; one without any calls leaves no trace."""
        if not any(op.num_calls for op in profile.operators.values()):
            return
        path = self._path(plan_id)
        before = self._read(path)
        saved = SavedProfile(
            plan_id=plan_id,
            plan_name=plan_name or (before.plan_name if before is not None else ""),
            num_runs=1 + (before.num_runs if before is not None else 0),
            saved_at=self._clock(),
            profile=profile + before.profile if before is not None else profile,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Under a name of its own until it is whole: a reader never sees half a file.
            partial = path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(saved), indent=1))
            partial.replace(path)
        except OSError as error:
            log.warning("profile %s is not saved: %s", path, error)

    def list(self) -> tuple[SavedProfile, ...]:
        """Every profile of the folder, the latest first."""
        found = [saved for path in self._paths() if (saved := self._read(path)) is not None]
        return tuple(sorted(found, key=lambda saved: saved.saved_at, reverse=True))

    def forget(self, plan_id: str) -> bool:
        """Deletes a plan's profile; whether there was one."""
        path = self._path(plan_id)
        with contextlib.suppress(OSError):
            path.unlink()
            return True
        return False

    def _paths(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from sorted(self._folder.glob("*.json"))

    def _path(self, plan_id: str) -> Path:
        if _PLAN_ID.fullmatch(plan_id) is None:
            raise RequestError(f"{plan_id[:80]!r} is no plan id; take it from Plan.plan_id")
        return self._folder / f"{plan_id}.json"

    def _read(self, path: Path) -> SavedProfile | None:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
            saved = msgspec.json.decode(path.read_bytes(), type=SavedProfile)
            for operator in saved.profile.operators.values():
                _check(operator)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("profile %s is not read: %s", path, error)
            return None
        return saved


def _check(operator: OperatorProfile) -> None:
    """Refuses numbers that no run can have left: every estimate would inherit them."""
    for field in dataclasses.fields(operator):
        value = getattr(operator, field.name)
        numbers = [value] if isinstance(value, int) else [*value.keys(), *value.values()]
        if any(number < 0 for number in numbers):
            raise ValueError(f"{field.name} is negative")
