"""The bar that is shown while an engine compiles its programs."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def compile_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on `console` that vanishes at the end; yields the callback that moves it.

    The callback takes (programs done, programs in all, what is compiled now), from any thread.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # in a log or pipe it would leave empty lines
    ) as bar:
        task = bar.add_task("loading weights", total=None)

        def on_progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"compiling {what}")

        yield on_progress
