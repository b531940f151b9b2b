"""The trace of the rules as text, for EXPLAIN."""

from collections.abc import Sequence

from helium_jax.optimizer.driver import TraceStep
from helium_jax.optimizer.rewriting import Note

MAX_NAMES = 8  # of operators that share a reason; a hundred names in a line help nobody


def format_trace(trace: Sequence[TraceStep]) -> str:
    """One line per rule that fired with what it saved, and under it the operators by reason.

    prune_unused_nodes: operators 12 -> 9, calls 5 -> 3
      draft, notes, spare: no output needs it
    merge_equal_subplans: operators 9 -> 8, calls 3 -> 2
      trader_2: computes the same as trader_1
    """
    if not trace:
        return "no rule fired"
    lines: list[str] = []
    for step in trace:
        lines.append(f"{step.rule}: {_change('operators', step.num_ops)}{_calls(step)}")
        lines += [f"  {line}" for line in _group(step.notes)]
    return "\n".join(lines)


def _calls(step: TraceStep) -> str:
    before, after = step.num_calls
    return f", {_change('calls', step.num_calls)}" if before != after else ""


def _change(what: str, counts: tuple[int, int]) -> str:
    before, after = counts
    return f"{what} {before} -> {after}" if before != after else f"{before} {what}"


def _group(notes: Sequence[Note]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for note in notes:
        by_reason.setdefault(note.reason, []).append(note.operator)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        lines.append(f"{', '.join(names[:MAX_NAMES])}{more}: {reason}")
    return lines
