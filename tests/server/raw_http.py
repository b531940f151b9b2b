"""Requests as bytes on a socket: what no client library would send."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """An answer as it came.

    Attributes:
        status: of its first line.
        head: all header lines, in lower case.
        body: the rest; chunks are joined.
    """

    status: int
    head: str
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error's code, type, message and param, checked for their shape."""
        assert "\r\ncontent-type: application/json" in self.head
        assert "\r\nx-request-id: " in self.head
        inner = json.loads(self.body)["error"]
        assert isinstance(inner["message"], str)
        for word in ("Traceback", "object at 0x", "/work/", "site-packages"):
            assert word not in inner["message"]
        return inner


def request_bytes(method: str, target: str, body: Any = None, **headers: str) -> bytes:
    """A request; `body` is bytes as they are, or JSON; `headers` replace ours, _ stands for -."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {"host": "x", "connection": "close"}
    if body is not None:
        lines |= {"content-type": "application/json", "content-length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + data


async def exchange(port: int, sent: bytes) -> RawAnswer:
    """Sends bytes and reads until the server closes; a silent close is status 0."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            came = await reader.read()
    finally:
        writer.close()
    head, _, body = came.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower()
    if "transfer-encoding: chunked" in lines:
        body = _join_chunks(body)
    return RawAnswer(status=int(head.split()[1]) if head else 0, head=lines + "\r\n", body=body)


def _join_chunks(body: bytes) -> bytes:
    joined = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        joined += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return joined
