"""/v1/files: what batches read and write."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import UNSET

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.config import Limits
from helium_jax.server.errors import BodyTimeoutError, MediaTypeError, TooLargeError
from helium_jax.server.files.bodies import FileList, FileReply
from helium_jax.server.files.paging import in_order, page_of
from helium_jax.server.files.store import FILES, StoredFile
from helium_jax.server.plans.replies import DeletedReply
from helium_jax.server.state import CONFIG, TENANT
from helium_jax.server.writing import cut, json_response, send_parts

PURPOSES = ("batch",)
MIN_TTL_S, MAX_TTL_S = 3600, 30 * 24 * 3600
_MAX_PARTS = 16
_MAX_FIELD_BYTES = 1024
_KNOWN = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Upload:
    content: bytes
    filename: str
    fields: Mapping[str, str]


async def post_file(request: web.Request) -> web.Response:
    """Keeps a file."""
    with working(request):
        upload = await _receive(request)
        purpose = upload.fields.get("purpose")
        if purpose not in PURPOSES:
            raise RequestError(
                f"purpose must be one of {', '.join(PURPOSES)}: there is no other use of files "
                "here",
                param="purpose",
            )
        file = await request.app[FILES].add(
            request[TENANT],
            upload.content,
            filename=upload.filename,
            purpose=purpose,
            ttl_s=_ttl_s(upload.fields),
        )
        unknown = [name for name in upload.fields if name not in _KNOWN]
        warnings = [f"{name[:64]}: unknown field, ignored" for name in unknown]
        if warnings and request.app[CONFIG].strict:
            raise RequestError(
                f"{unknown[0][:64]!r} is not a field of this endpoint",
                code="unknown_parameter",
                param=unknown[0][:64],
            )
        return json_response(_describe(file, warnings))


async def get_files(request: web.Request) -> web.Response:
    """A key's files, the latest first."""
    files = in_order(request, request.app[FILES].of_key(request[TENANT]))
    purpose = request.query.get("purpose")
    if purpose is not None:
        files = [file for file in files if file.purpose == purpose]
    page, has_more = page_of(request, files, default_limit=10_000)
    return json_response(
        FileList(
            data=[_describe(file) for file in page],
            has_more=has_more,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
        )
    )


async def get_file(request: web.Request) -> web.Response:
    """One file."""
    return json_response(_describe(_find(request)))


async def get_content(request: web.Request) -> web.StreamResponse:
    """The bytes of a file."""
    file = _find(request)
    content = await request.app[FILES].read(request[TENANT], file.id)
    # Whoever opens it in a browser must not have it run as a page of this server.
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(content)),
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
    }
    return await send_parts(request, cut(content), headers)


async def delete_file(request: web.Request) -> web.Response:
    """Forgets a file."""
    file = _find(request)
    await request.app[FILES].remove(request[TENANT], file.id)
    return json_response(DeletedReply(id=file.id, object="file"))


def _find(request: web.Request) -> StoredFile:
    return request.app[FILES].get(request[TENANT], request.match_info["file_id"])


def _describe(file: StoredFile, warnings: list[str] | None = None) -> FileReply:
    return FileReply(
        id=file.id,
        bytes=file.num_bytes,
        created_at=int(file.created),
        filename=file.filename,
        purpose=file.purpose,
        expires_at=None if file.expires is None else int(file.expires),
        warnings=warnings or UNSET,
    )


def _ttl_s(fields: Mapping[str, str]) -> float | None:
    seconds, anchor = (fields.get(f"expires_after[{name}]") for name in ("seconds", "anchor"))
    if seconds is None and anchor is None:
        return None
    if anchor not in (None, "created_at"):
        raise RequestError("must be created_at", param="expires_after[anchor]")
    if (
        seconds is None
        or not (seconds.isascii() and seconds.isdecimal() and len(seconds) <= 9)
        or not MIN_TTL_S <= int(seconds) <= MAX_TTL_S
    ):
        raise RequestError(
            f"must be a number from {MIN_TTL_S} to {MAX_TTL_S}", param="expires_after[seconds]"
        )
    return float(seconds)


async def _receive(request: web.Request) -> _Upload:
    """Reads a form with one file.

    Raises:
        MediaTypeError, TooLargeError, BodyTimeoutError, RequestError.
    """
    config = request.app[CONFIG]
    if request.content_type != "multipart/form-data":
        raise MediaTypeError("the Content-Type must be multipart/form-data")
    if (request.content_length or 0) > config.limits.file_bytes + 64 * 1024:
        raise _too_large(config.limits)
    try:
        async with asyncio.timeout(config.body_timeout_s):
            return await _read_form(request, config.limits)
    except TimeoutError:
        request.protocol.close()  # the rest of the body may still come
        raise BodyTimeoutError(
            f"the body did not arrive within {config.body_timeout_s:g} s"
        ) from None
    except (ValueError, AssertionError, LookupError, HttpProcessingError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError("the body is no valid multipart form", code="invalid_form") from None


async def _read_form(request: web.Request, limits: Limits) -> _Upload:
    fields: dict[str, str] = {}
    content: bytes | None = None
    filename = ""
    num_parts = 0
    async for part in await request.multipart():
        num_parts += 1
        if not isinstance(part, BodyPartReader) or num_parts > _MAX_PARTS:
            raise RequestError("a form has fields and one file", code="invalid_form")
        name = part.name or ""
        if name == "file":
            if content is not None:
                raise RequestError("there is more than one file", param="file")
            content = await _read_part(part, limits.file_bytes, limits)
            filename = (part.filename or "upload.jsonl")[:256]
        elif name in fields:
            raise RequestError(f"{name[:64]!r} appears twice", param=name[:64])
        else:
            raw = await _read_part(part, _MAX_FIELD_BYTES, limits)
            fields[name] = raw.decode("utf-8")
    if content is None:
        raise RequestError("a form with a field named file is needed", param="file")
    if not content:
        raise RequestError("is empty", param="file")
    return _Upload(content=content, filename=filename, fields=fields)


async def _read_part(part: BodyPartReader, most: int, limits: Limits) -> bytes:
    parts, length = [], 0
    while chunk := await part.read_chunk(64 * 1024):
        length += len(chunk)
        if length > most:
            raise _too_large(limits)
        parts.append(chunk)
        await asyncio.sleep(0)  # a client that sends fast never makes a read wait
    return b"".join(parts)


def _too_large(limits: Limits) -> TooLargeError:
    return TooLargeError(f"the file is over this server's limit of {limits.file_bytes} bytes")
