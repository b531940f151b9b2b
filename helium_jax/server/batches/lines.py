"""The lines of a batch's input file, read and checked; the lines of its output, written."""

import secrets
from typing import Any

import msgspec

from helium_jax.errors import HeliumError, RequestError
from helium_jax.server.errors import envelope, status_of
from helium_jax.server.files.bodies import (
    BatchError,
    BatchLine,
    LineError,
    LineReply,
    LineResponse,
)
from helium_jax.server.reading import Findings, read_struct
from helium_jax.server.strict_json import parse_json

MAX_NAMED_ERRORS = 32


def read_lines(
    content: bytes, *, endpoint: str, max_lines: int, max_depth: int
) -> tuple[list[BatchLine], list[BatchError]]:
    """The lines of an input file, and what is wrong with it: then nothing of it runs.

    What is wrong inside a line's body is no fault of the file; that line alone fails.
    """
    lines: list[BatchLine] = []
    errors: list[BatchError] = []
    seen: set[str] = set()
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if len(errors) == MAX_NAMED_ERRORS:
            break
        if not raw.strip():
            continue
        if len(lines) == max_lines:
            message = f"the file has more than {max_lines} lines; split it"
            errors.append(BatchError(code="too_many_lines", message=message, line=number))
            break
        line = _read_line(raw, number, endpoint, max_depth, errors)
        if line is None:
            continue
        if line.custom_id in seen:
            message = f"custom_id {line.custom_id[:80]!r} is that of an earlier line too"
            errors.append(_error("duplicate_custom_id", message, number, "custom_id"))
        seen.add(line.custom_id)
        lines.append(line)
    if not lines and not errors:
        errors.append(BatchError(code="empty_file", message="the file has no lines"))
    return lines, errors


def _read_line(
    raw: bytes, number: int, endpoint: str, max_depth: int, errors: list[BatchError]
) -> BatchLine | None:
    try:
        value = parse_json(raw, max_depth=max_depth)
    except RequestError as error:
        errors.append(_error(error.code, error.message, number, None))
        return None
    if not isinstance(value, dict):
        errors.append(_error("invalid_json", "a line must be a JSON object", number, None))
        return None
    found = Findings()
    line = read_struct(BatchLine, value, "", found)
    if line is None:
        first = found.problems[0]
        errors.append(_error(first.code, str(first), number, first.path))
        return None
    if line.url != endpoint:
        message = f"url {line.url[:80]!r} differs from the batch's endpoint {endpoint!r}"
        errors.append(_error("mismatched_url", message, number, "url"))
        return None
    return line


def _error(code: str, message: str, line: int, param: str | None) -> BatchError:
    return BatchError(code=code, message=message, line=line, param=param)


def write_answer(line: BatchLine, request_id: str, body: Any) -> bytes:
    """A line of the output file."""
    return _write(line, LineResponse(status_code=200, request_id=request_id, body=body), None)


def write_failure(line: BatchLine, request_id: str, error: HeliumError) -> bytes:
    """A line of the error file, for a body that was refused or an answer that failed."""
    status, _ = status_of(error)
    response = LineResponse(status_code=status, request_id=request_id, body=envelope(error))
    return _write(line, response, None)


def write_undone(line: BatchLine, code: str, message: str) -> bytes:
    """A line of the error file, for a line that did not run."""
    return _write(line, None, LineError(code=code, message=message))


def is_answer(written: bytes) -> bool:
    """Whether a line that was written belongs into the output file, not into the error file.

    Raises:
        ValueError: it is no such line.
    """
    response = msgspec.json.decode(written, type=LineReply).response
    return response is not None and response.status_code == 200


def _write(line: BatchLine, response: LineResponse | None, error: LineError | None) -> bytes:
    reply = LineReply(
        id=f"batch_req_{secrets.token_hex(12)}",
        custom_id=line.custom_id,
        response=response,
        error=error,
    )
    return msgspec.json.encode(reply)
