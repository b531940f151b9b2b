"""Tables of measured runs beside the paper's numbers, for people."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from helium_jax.experiments import paper
from helium_jax.experiments.experiment import Record
from helium_jax.experiments.variant import HELIUM, MERGED, NAIVE

TITLES: Mapping[str, str] = {
    "a": "a. policies and workloads",
    "b": "b. Helium without each of its parts",
    "c": "c. the order of calls alone, caches off",
    "e": "e. sensitivity",
}
_NEAR = 1.05  # times the least: an order that computes so little leaves nothing to win
_HEADINGS = (
    *("seconds", "x helium", "x cpu", "paper", "calls", "reused", "needed", "computed", "ahead"),
    *("floor", "hit", "evicted", "batch", "plan ms", "ahead s", "before s", "equal"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One variant of a case over all rounds: medians.

    Attributes:
        times_helium: its seconds over Helium's in the same round, per row; None without Helium.
        cpu_times_helium: the same of CPU seconds, which suffer less from busy neighbours.
        paper: the same in the paper, where it says.
        records: of all rounds.
    """

    case: str
    variant: str
    merge: bool
    times_helium: float | None
    cpu_times_helium: float | None
    paper: float | None
    records: tuple[Record, ...]

    def median(self, value: Callable[[Record], float]) -> float:
        """Of all rounds."""
        return statistics.median(value(record) for record in self.records)


def summarise(records: Sequence[Record]) -> list[Line]:
    """One line for each variant of each case, in the order of the first round."""
    groups: dict[tuple[str, str, bool, str], list[Record]] = {}
    for r in records:
        groups.setdefault((r.table, r.case, r.merge, r.variant), []).append(r)
    lines = []
    for (table, case, merge, variant), mine in groups.items():
        helium = {r.round: r for r in groups.get((table, case, merge, HELIUM), [])}
        pairs = [(r, helium[r.round]) for r in mine if r.round in helium]
        lines.append(
            Line(
                case=case,
                variant=variant,
                merge=merge,
                times_helium=_ratio(pairs, lambda r: r.measured.seconds),
                cpu_times_helium=_ratio(pairs, lambda r: r.measured.cpu_s),
                paper=_published(table, mine[0]),
                records=tuple(mine),
            )
        )
    return lines


def _ratio(
    pairs: Sequence[tuple[Record, Record]], value: Callable[[Record], float]
) -> float | None:
    """Of the first over the second, per row; the median of all rounds."""
    if not pairs:
        return None
    return statistics.median(
        (value(a) / a.measured.num_rows) / max(1e-9, value(b) / b.measured.num_rows)
        for a, b in pairs
    )


def _published(table: str, record: Record) -> float | None:
    known: Mapping[str, Mapping[str, float]] = {
        "a": paper.TIMES_HELIUM.get(record.paper, {}),
        "b": paper.ABLATION if record.paper.startswith("trading") else {},
        "c": paper.SCHEDULING if record.paper.startswith("trading") else {},
    }
    return known.get(table, {}).get(record.variant)


def make_table(table: str, records: Sequence[Record]) -> Table:
    """What one table's runs cost, a line for each variant."""
    made = Table(title=TITLES[table], box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("case", "merged", "variant"):
        made.add_column(heading, no_wrap=True)
    for heading in _HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for line in summarise([record for record in records if record.table == table]):
        here = (line.case, line.merge)
        made.add_row(
            line.case if here != previous else "",
            ("yes" if line.merge else "no") if here != previous else "",
            line.variant,
            *_cells(line),
        )
        previous = here
    return made


def ratios_table(records: Sequence[Record]) -> Table:
    """Seconds over Helium's, workload by policy: wall (CPU) / the paper's."""
    made = Table(
        title="seconds (CPU seconds) over Helium's / in the paper", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    lines = [
        line
        for line in summarise([record for record in records if record.table == "a"])
        if line.variant != HELIUM and line.times_helium is not None
    ]
    policies = list(dict.fromkeys(line.variant for line in lines))
    made.add_column("workload", no_wrap=True)
    made.add_column("merged", no_wrap=True)
    for policy in policies:
        made.add_column(policy, justify="right", no_wrap=True)
    cells: dict[tuple[str, bool], dict[str, str]] = {}
    for line in lines:
        text = f"{_times(line.times_helium)} ({_times(line.cpu_times_helium)})"
        text += f" / {line.paper:.2f}" if line.paper else ""
        cells.setdefault((line.case, line.merge), {})[line.variant] = text
    for (case, merge), row in cells.items():
        made.add_row(case, "yes" if merge else "no", *(row.get(policy, "") for policy in policies))
    return made


def reasons_table(records: Sequence[Record]) -> Table:
    """Why a policy is not as much slower than Helium as in the paper, by what was counted."""
    made = Table(title="why a ratio is below the paper's", box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("case", "variant", "here", "paper", "reason"):
        made.add_column(heading, no_wrap=heading != "reason")
    lines = summarise([record for record in records if record.table in ("a", "c")])
    helium = {_case(line): line for line in lines if line.variant == HELIUM}
    for line in lines:
        ours = helium.get(_case(line))
        if ours is None or line.times_helium is None or line.variant in (HELIUM, MERGED):
            continue
        if line.paper is not None and line.times_helium < line.paper:
            here, published = _times(line.times_helium), _times(line.paper)
            made.add_row(line.case, line.variant, here, published, reason(line, ours))
    return made


def reason(line: Line, helium: Line) -> str:
    """What of the paper's reasons to be slower than Helium does not hold for a line here."""
    theirs, ours = _computed(line), _computed(helium)
    floor = line.median(lambda record: record.measured.floor / record.measured.num_rows)
    more = theirs / max(ours, 1.0) - 1.0
    parts = [f"computes {more:+.0%} prompt tokens"]
    if theirs <= _NEAR * floor:
        parts.append(f"within {theirs / max(floor, 1.0) - 1.0:.0%} of what any order must")
    steps = _steps(line) / max(_steps(helium), 1.0) - 1.0
    batch, other = (_middle(one, "mean_batch") for one in (line, helium))
    parts.append(f"takes {steps:+.0%} steps, of {batch:.1f} answers each (Helium {other:.1f})")
    ahead = _middle(helium, "planning_s") + _middle(helium, "precompute_s")
    parts.append(f"Helium plans and computes ahead for {ahead / _middle(helium, 'seconds'):.0%}")
    return "; ".join(parts)


def _case(line: Line) -> tuple[str, str, bool]:
    return line.records[0].table, line.case, line.merge


def _computed(line: Line) -> float:
    """Prompt tokens that were computed for each row, those ahead of their calls too."""

    def of(record: Record) -> float:
        measured = record.measured
        return (measured.computed + measured.precomputed) / measured.num_rows

    return line.median(of)


def _steps(line: Line) -> float:
    """Of the engines, for each row."""
    return line.median(lambda record: record.measured.steps / record.measured.num_rows)


def _middle(line: Line, name: str) -> float:
    return line.median(lambda record: getattr(record.measured, name))


def gaps_table(measured: Sequence[Mapping[str, float]], title: str) -> Table:
    """Table d: percent above the best order in the paper's cost model, by policy.

    Args:
        measured: per graph the gaps of all policies; see `helium_jax.experiments.optimality`.
        title: which graphs.
    """
    made = Table(title=f"d. percent above the optimum: {title}", box=SIMPLE, padding=(0, 1, 0, 0))
    made.add_column("policy", no_wrap=True)
    for heading in ("mean", "greatest", "paper's mean", "paper's greatest"):
        made.add_column(heading, justify="right", no_wrap=True)
    for name in measured[0] if measured else ():
        values = [gaps[name] for gaps in measured]
        published = paper.OPTIMALITY_GAP.get(name)
        made.add_row(
            name,
            f"{statistics.fmean(values):.1f}",
            f"{max(values):.1f}",
            *(("", "") if published is None else (f"{value:.1f}" for value in published)),
        )
    return made


def _cells(line: Line) -> list[str]:
    """As `_HEADINGS`."""

    def middle(name: str, form: str = ".0f") -> str:
        return format(_middle(line, name), form)

    return [
        _seconds(line),
        _times(line.times_helium),
        _times(line.cpu_times_helium),
        _times(line.paper),
        middle("calls"),
        middle("reused_calls"),
        middle("needed"),
        middle("computed"),
        middle("precomputed"),
        middle("floor"),
        middle("hit_rate", ".0%"),
        middle("evicted_then_needed"),
        middle("mean_batch", ".1f"),
        format(1000 * line.median(lambda record: record.measured.planning_s), ".0f"),
        middle("precompute_s", ".2f"),
        middle("warmup_s", ".1f"),
        f"{min(record.equal_outputs for record in line.records):.0%}",
    ]


def _seconds(line: Line) -> str:
    seconds = line.median(lambda record: record.measured.seconds)
    rows = line.records[0].measured.num_rows
    return f"{seconds:.2f}" + (f" ({rows} row)" if line.variant == NAIVE and rows == 1 else "")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
