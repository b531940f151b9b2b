"""What is shown while an engine compiles its programs."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

INTERVAL_S = 5.0  # between two lines in a log


@contextlib.contextmanager
def compile_progress(
    console: Console, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal that vanishes at the end, now and then a line in a log or pipe.

    Yields the callback that moves it, which takes (programs done, programs in all, what was
    compiled last), from any thread.
    """
    if not console.is_terminal:
        yield _lines(console, clock)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("loading weights", total=None)

        def on_progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"compiling {what}")

        yield on_progress


def _lines(console: Console, clock: Callable[[], float]) -> Callable[[int, int, str], None]:
    told = clock()

    def on_progress(done: int, total: int, what: str) -> None:
        nonlocal told
        if clock() - told >= INTERVAL_S:
            told = clock()
            console.print(f"compiled {done} of {total} programs: {what}", highlight=False)

    return on_progress
