"""What a person sees of a run: a live table of its operators, and the bill at the end."""

import time
from collections.abc import Callable

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from helium_jax.executor import OperatorStatistics, RunEvent, RunResult
from helium_jax.executor.events import OpCompleted, OpProgress
from helium_jax.executor.result import summarize

BAR_WIDTH = 24


class RunDisplay:
    """The latest statistics of every operator of one run, drawn from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._latest: dict[str, OperatorStatistics] = {}
        self._clock = clock
        self._started = clock()

    def on_event(self, event: RunEvent) -> None:
        """Takes note of an event of the run."""
        match event.progress:
            case OpProgress(statistics=statistics) | OpCompleted(statistics=statistics):
                # A new dict: the drawing thread may be going through the old one.
                self._latest = {**self._latest, statistics.operator: statistics}
            case _:
                pass

    def __rich__(self) -> Group:
        """The table as it is now."""
        seconds = self._clock() - self._started
        table = Table(box=None, pad_edge=False)
        for heading in ("operator", "", "rows", "failed", "calls", "tokens out", "prompt saved"):
            table.add_column(heading, justify="left" if heading in ("operator", "") else "right")
        operators = tuple(self._latest.values())
        for op in operators:
            ended = op.num_done + op.num_failed
            table.add_row(
                op.operator,
                ProgressBar(total=max(op.num_rows, 1), completed=ended, width=BAR_WIDTH),
                f"{ended}/{op.num_rows}",
                Text(str(op.num_failed), style="red" if op.num_failed else "dim"),
                str(op.num_calls),
                str(op.completion_tokens),
                str(op.kv_cached + op.saved_prompt_tokens),
            )
        total = summarize(operators, seconds)
        rate = total.completion_tokens / seconds if seconds > 0 else 0.0
        saved = total.kv_cached + total.single_flight_saved
        foot = f"{seconds:.1f} s   {rate:.0f} tokens/s   {saved} prompt tokens saved"
        return Group(table, Text(foot, style="dim"))


def summary_lines(result: RunResult) -> list[str]:
    """The bill of a run that has ended."""
    total = result.statistics
    num_failed = sum(bool(row.errors) for row in result.rows)
    saved = total.needed - total.computed - total.precomputed
    share = f" ({saved / total.needed:.0%} saved)" if total.needed else ""
    sources = {
        "from the KV store": total.kv_cached,
        "of equal calls": total.single_flight_saved,
        "of merged operators": total.merged_saved,
        "from the output cache": total.result_cached,
    }
    parts = "".join(f" + {count} {name}" for name, count in sources.items() if count)
    lines = [
        f"{result.status}: {len(result.rows)} rows, {num_failed} failed, {total.seconds:.2f} s, "
        f"of it planning {total.planning_seconds * 1000:.0f} ms",
        f"calls: {total.num_calls} made, {total.num_saved_calls} served by equal ones, "
        f"{total.num_cached_calls} by the output cache",
        f"prompt tokens: {total.needed} needed = {total.computed} computed{parts}{share}",
        f"output tokens: {total.completion_tokens}",
    ]
    if total.precomputed:
        lines.insert(3, f"computed ahead: {total.precomputed} tokens")
    return lines
