"""The command `helium-jax`: a group whose commands are imported only when they run."""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import click

from helium_jax.errors import CapacityError, HeliumError, InternalError

EXIT_INPUT = 2  # the caller can fix it, as click's own usage errors
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
ENGINE_THREADS = "helium-engine"

# command -> (module that defines it under the same name, one line for --help)
COMMANDS = {
    "serve": ("helium_jax.cli.serve", "Serve a model over HTTP, OpenAI-compatible."),
    "chat": ("helium_jax.cli.chat", "Talk to a model in the terminal."),
    "run": ("helium_jax.cli.run", "Run a plan over rows of inputs."),
    "explain": ("helium_jax.cli.explain", "Show how a plan would run, or did."),
    "profiles": ("helium_jax.cli.profiles", "Show what earlier runs have shown of plans."),
    "demo": ("helium_jax.cli.demo", "Watch workflows run through the engine, and checked."),
    "bench": ("helium_jax.cli.bench", "Run the paper's experiments: policies on workloads."),
    "doctor": ("helium_jax.cli.doctor", "Check this installation and its devices."),
    "convert": ("helium_jax.cli.convert", "Convert a model folder: safetensors <-> Orbax."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands whose module is installed."""
        return [name for name, (module, _) in COMMANDS.items() if find_spec(module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help without importing."""
        rows = [(name, COMMANDS[name][1]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("helium-jax"), prog_name="helium-jax")
def cli() -> None:
    """Language models in pure JAX, agentic workflows as query plans."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; errors that the user can fix are one line on stderr.

    Returns the exit code: 0, 1 for a failure of ours or of capacity, 2 for wrong input, 130 after
    Ctrl-C.
    """
    logger = logging.getLogger("helium_jax")
    if not logger.handlers:  # without one, Python itself would print tracebacks of handled errors
        logger.addHandler(logging.NullHandler())
    try:
        result = cli.main(args, prog_name="helium-jax", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("helium-jax: interrupted", err=True)
        return _leave(EXIT_INTERRUPTED)
    except (InternalError, CapacityError) as error:
        return _complain(error, EXIT_FAILURE)
    except (HeliumError, ValueError, FileNotFoundError, NotADirectoryError) as error:
        return _complain(error, EXIT_INPUT)
    except BrokenPipeError:
        return EXIT_FAILURE  # the reader of our output has gone: `helium-jax explain | head`
    return result if isinstance(result, int) else 0


def _leave(code: int) -> int:
    """Gives the code back, unless an engine is still compiling: then the process ends here.

    A compilation cannot be stopped, and Python would wait for it and then end beneath it, which
    aborts the process.
    """
    if any(thread.name.startswith(ENGINE_THREADS) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _complain(error: Exception, code: int) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    click.echo(f"helium-jax: error: {text or type(error).__name__}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
