"""The package's warnings on stderr, for commands without a log of their own."""

import contextlib
import logging
from collections.abc import Iterator

import click

from helium_jax.telemetry.logs import escape_controls


class _WarningLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "warning" if record.levelno < logging.ERROR else "error"
        click.echo(f"helium-jax: {level}: {escape_controls(record.getMessage())}", err=True)


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Shows warnings and errors of the package as one line each, without tracebacks.

    Such as an output cache whose file cannot be used: the run goes on, but slower than hoped.
    """
    logger = logging.getLogger("helium_jax")
    handler = _WarningLines(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
