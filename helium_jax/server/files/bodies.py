"""Files and batches of OpenAI's API as types."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

DAY_S = 24 * 3600.0
Lifetime = Annotated[int, Meta(ge=3600, le=30 * 24 * 3600)]


class FileForm(Struct, kw_only=True, frozen=True):
    """POST /v1/files, as multipart/form-data: `file` is JSON lines for a batch.

    The two fields of expires_after end the file by themselves; the only anchor is created_at.
    """

    file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]
    purpose: Literal["batch"]
    expires_after_anchor: Annotated[
        str | UnsetType, Meta(description="named expires_after[anchor]")
    ] = UNSET
    expires_after_seconds: Annotated[
        int | UnsetType, Meta(description="named expires_after[seconds]")
    ] = UNSET


class FileReply(Struct, kw_only=True, frozen=True):
    """A file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    object: str = "file"
    status: str = "processed"
    warnings: list[str] | UnsetType = UNSET


class FileList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/files."""

    data: list[FileReply]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None
    object: str = "list"


class ExpiresAfter(Struct, kw_only=True, frozen=True):
    """When a file is to end by itself."""

    anchor: Literal["created_at"]
    seconds: Lifetime


class BatchBody(Struct, kw_only=True, frozen=True):
    """POST /v1/batches; a batch that is not done within a day expires."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(Struct, kw_only=True, frozen=True):
    """What is wrong with an input file; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(Struct, kw_only=True, frozen=True):
    """What is wrong with an input file."""

    data: list[BatchError]
    object: str = "list"


class RequestCounts(Struct, kw_only=True, frozen=True):
    """Lines of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchReply(Struct, kw_only=True, frozen=True):
    """A batch. Its states: validating, failed, in_progress, finalizing, completed, expired,
    cancelling, cancelled.

    `runs`: ids of the runs whose rows some of its lines have become; see /v1/runs.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    object: str = "batch"
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    metadata: dict[str, str] | None = None
    runs: list[str] = []
    warnings: list[str] | UnsetType = UNSET


class BatchList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/batches."""

    data: list[BatchReply]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None
    object: str = "list"


class BatchLine(Struct, kw_only=True, frozen=True):
    """A line of an input file."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class LineResponse(Struct, kw_only=True, frozen=True):
    """What the endpoint answered."""

    status_code: int
    request_id: str
    body: Any


class LineError(Struct, kw_only=True, frozen=True):
    """Why there is no answer."""

    code: str
    message: str


class LineReply(Struct, kw_only=True, frozen=True):
    """A line of an output or error file."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None
