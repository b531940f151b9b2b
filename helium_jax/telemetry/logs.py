"""The one log format: time, level, logger, request or run id, message; one line per record."""

import contextlib
import logging
import re
from collections.abc import Iterator

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class LineFormatter(logging.Formatter):
    """Formats a record as one line that no logged text can break or forge.

    A record's id comes from `extra={"request_id": ...}`, "-" without one. Control characters are
    escaped, also in tracebacks, whose line breaks become " | ".
    """

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s",
            defaults={"request_id": "-"},
        )

    def formatException(self, ei: object) -> str:
        """The traceback on one line."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return " | ".join(line.strip() for line in text.splitlines())

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return escape_controls(super().format(record).replace("\n", " | "))


def escape_controls(text: str) -> str:
    """Makes control characters visible: a NUL becomes `\\x00`, a line break `\\x0a`."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


@contextlib.contextmanager
def logging_to_stderr(level: int = logging.INFO) -> Iterator[None]:
    """Writes this package's records of at least `level` to stderr, for the command line."""
    logger = logging.getLogger("helium_jax")
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
