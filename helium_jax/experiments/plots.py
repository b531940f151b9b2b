"""Bars of ratios, ours beside the paper's; needs matplotlib (extra `plots`)."""

from collections.abc import Sequence
from pathlib import Path

from helium_jax.errors import RequestError
from helium_jax.experiments.experiment import Record
from helium_jax.experiments.report import Line, summarise
from helium_jax.experiments.variant import HELIUM, NAIVE


def plot_tables(records: Sequence[Record], folder: Path) -> list[Path]:
    """One SVG file a table: for each case the seconds of every variant over Helium's.

    Returns the files written.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("plots need matplotlib: pip install 'helium-jax[plots]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in sorted({record.table for record in records}):
        lines = summarise([record for record in records if record.table == table])
        # Hundreds of times slower than the rest, it would flatten every other bar.
        lines = [line for line in lines if line.variant not in (HELIUM, NAIVE)]
        lines = [line for line in lines if line.times_helium is not None]
        if not lines:
            continue
        labels = [_label(line) for line in lines]
        places = range(len(lines))
        figure = Figure(figsize=(8, 1.5 + 0.28 * len(lines)), layout="constrained")
        axes = figure.subplots()
        axes.barh(places, [line.times_helium or 0.0 for line in lines], label="here")
        published = [(place, line.paper) for place, line in enumerate(lines) if line.paper]
        if published:
            axes.plot(*zip(*((p, i) for i, p in published), strict=True), "k|", label="paper")
        axes.axvline(1.0, color="grey", linewidth=1)
        axes.set_yticks(places, labels)
        axes.set_ylim(len(lines) - 0.4, -0.6)  # the first line on top
        axes.set_xlabel("seconds over Helium's")
        figure.legend(loc="outside lower right", ncols=2)
        path = folder / f"workflows-{table}.svg"
        figure.savefig(path)
        paths.append(path)
    return paths


def _label(line: Line) -> str:
    return f"{line.case}{' (merged)' if line.merge else ''}: {line.variant}"
