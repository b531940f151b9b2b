"""The values of a decided step: who goes, who comes, what each sequence computes."""

from dataclasses import dataclass
from typing import NamedTuple

from helium_jax.engine.sequence import Sequence


class Row(NamedTuple):
    """Work of one sequence in a step. (A tuple, since a step makes hundreds.)

    Attributes:
        sequence: whose tokens.
        start: position of the first one.
        num_tokens: how many, at least 1.
        samples: the last of them is the last one known, so its logits give the next token.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool


class Admission(NamedTuple):
    """A waiting sequence that starts to run.

    Attributes:
        sequence: who.
        num_matched: leading blocks it shares with others: resident, or computed in this step.
        num_pages: private pages for the rest of its known tokens.
    """

    sequence: Sequence
    num_matched: int
    num_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step.

    Attributes:
        preemptions: running sequences that go back to waiting for lack of pages.
        displacements: running sequences that go back to waiting so that the admitted one, of a
            higher priority, can run.
        growth: running sequences that need more pages, and how many each.
        admissions: waiting sequences that start to run, in order: a later one may share blocks
            of an earlier one.
        rows: work, in the order of the step's rows: single tokens first, then chunks, and
            common prefixes next to each other within both.
        num_tokens: of all rows.
    """

    preemptions: tuple[Sequence, ...]
    displacements: tuple[Sequence, ...]
    growth: tuple[tuple[Sequence, int], ...]
    admissions: tuple[Admission, ...]
    rows: tuple[Row, ...]
    num_tokens: int
