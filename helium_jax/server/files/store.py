"""Files that clients uploaded or batches wrote, by key; on disk if there is a state folder."""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp import web

from helium_jax.errors import CapacityError, InternalError
from helium_jax.server.errors import NotFoundError

log = logging.getLogger(__name__)

_ID = re.compile(r"file-[0-9a-f]{24}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """What is known of a file beside its bytes.

    Attributes:
        id: ours; with a state folder, also the name of the file on disk.
        tenant: whose it is.
        filename: as the client called it; told back, and never a path.
        purpose: "batch" or "batch_output".
        num_bytes: of its content.
        created: seconds since the epoch.
        expires: likewise; None: it stays until it is deleted.
    """

    id: str
    tenant: str
    filename: str
    purpose: str
    num_bytes: int
    created: float
    expires: float | None = None


class FileStore:
    """Belongs to the event loop; reads and writes happen in threads."""

    def __init__(
        self, folder: Path | None, *, max_files: int, max_bytes: int, now: Callable[[], float]
    ) -> None:
        """
        Args:
            folder: where; None keeps the bytes in memory.
            max_files: most files of one key.
            max_bytes: of all files together.
            now: seconds since the epoch.
        """
        self._folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._now = now
        self._files: dict[str, StoredFile] = {}
        self._contents: dict[str, bytes] = {}

    async def open(self) -> None:
        """Finds the files of an earlier process."""
        if self._folder is not None:
            found = await asyncio.to_thread(_load, self._folder)
            self._files = {file.id: file for file in found}

    async def add(
        self,
        tenant: str,
        content: bytes,
        *,
        filename: str,
        purpose: str,
        ttl_s: float | None,
        file_id: str | None = None,
    ) -> StoredFile:
        """Keeps a file.

        Args:
            tenant: whose it is.
            content: of the file.
            filename: as clients see it.
            purpose: likewise.
            ttl_s: seconds until it ends by itself; None: it stays.
            file_id: of an earlier attempt at the same file, which is replaced; None makes one.

        Raises:
            CapacityError: this key has too many files, or all together are too long.
        """
        await self._expire()
        if file_id in self._files:
            await self._drop(self._files[file_id])
        own = sum(file.tenant == tenant for file in self._files.values())
        if own >= self._max_files:
            raise CapacityError(
                f"there are {own} files already; delete some", code="too_many_files"
            )
        used = sum(file.num_bytes for file in self._files.values())
        if used + len(content) > self._max_bytes:
            raise CapacityError(
                f"files may have {self._max_bytes} bytes together; delete some",
                code="files_too_large",
            )
        now = self._now()
        file = StoredFile(
            id=file_id or new_file_id(secrets.token_bytes(12)),
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            num_bytes=len(content),
            created=now,
            expires=None if ttl_s is None else now + ttl_s,
        )
        self._files[file.id] = file  # counted while it is written
        try:
            if self._folder is None:
                self._contents[file.id] = content
            else:
                await asyncio.to_thread(_write, self._folder, file, content)
        except OSError as error:
            del self._files[file.id]
            raise CapacityError(
                f"the file cannot be kept: {error.strerror}", code="disk_error"
            ) from error
        return file

    def get(self, tenant: str, file_id: str) -> StoredFile:
        """A key's file.

        Raises:
            NotFoundError: this key has none of that id.
        """
        file = self._files.get(file_id)
        if file is None or file.tenant != tenant or self._is_over(file):
            raise NotFoundError(
                f"there is no file {file_id[:80]!r}; GET /v1/files lists what there is",
                code="file_not_found",
                param="file_id",
            )
        return file

    def of_key(self, tenant: str) -> list[StoredFile]:
        """A key's files, the oldest first."""
        own = (file for file in self._files.values() if file.tenant == tenant)
        return sorted((file for file in own if not self._is_over(file)), key=lambda f: f.created)

    async def read(self, tenant: str, file_id: str) -> bytes:
        """The content of a key's file; raises as `get`."""
        file = self.get(tenant, file_id)
        if self._folder is None:
            return self._contents[file.id]
        try:
            return await asyncio.to_thread((self._folder / f"{file.id}.data").read_bytes)
        except OSError as error:
            raise InternalError(f"the file cannot be read: {error.strerror}") from error

    async def remove(self, tenant: str, file_id: str) -> None:
        """Forgets a key's file; raises as `get`."""
        await self._drop(self.get(tenant, file_id))

    def _is_over(self, file: StoredFile) -> bool:
        return file.expires is not None and file.expires <= self._now()

    async def _expire(self) -> None:
        for file in [file for file in self._files.values() if self._is_over(file)]:
            await self._drop(file)

    async def _drop(self, file: StoredFile) -> None:
        del self._files[file.id]
        self._contents.pop(file.id, None)
        if self._folder is not None:
            await asyncio.to_thread(_unlink, self._folder, file.id)


def new_file_id(seed: bytes) -> str:
    """An id made of 12 bytes."""
    return f"file-{seed.hex()}"


FILES = web.AppKey("files", FileStore)


def _write(folder: Path, file: StoredFile, content: bytes) -> None:
    """Content first: a description without a content is never there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / f"{file.id}.data").write_bytes(content)
        (folder / f"{file.id}.json").write_bytes(msgspec.json.encode(file))
    except OSError:
        _unlink(folder, file.id)
        raise


def _unlink(folder: Path, file_id: str) -> None:
    for suffix in ("json", "data"):
        (folder / f"{file_id}.{suffix}").unlink(missing_ok=True)


def _load(folder: Path) -> list[StoredFile]:
    found = []
    for path in sorted(folder.glob("file-*.json")):
        try:
            file = msgspec.json.decode(path.read_bytes(), type=StoredFile)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("a stored file is damaged and left alone: %s: %s", path.name, error)
            continue
        if file.id == path.stem and _ID.fullmatch(file.id) and path.with_suffix(".data").is_file():
            found.append(file)
    return found
