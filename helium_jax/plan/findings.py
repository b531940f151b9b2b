"""Collects every fault and warning of a plan, with paths and the nearest right names."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from helium_jax.errors import PlanError, Problem

MAX_SUGGESTIONS = 20  # comparing names is slow; past this many faults a hint helps nobody
MAX_COMPARED = 500


@dataclass(slots=True)
class Findings:
    """What is wrong with one plan so far."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    num_suggested: int = 0

    def add(self, path: str, message: str, code: str = "plan_invalid") -> None:
        """Adds a fault."""
        self.problems.append(Problem(path=path, message=message, code=code))

    def warn(self, path: str, message: str, code: str) -> None:
        """Adds a warning."""
        self.warnings.append(Problem(path=path, message=message, code=code))

    def suggest(self, wrong: str, known: Iterable[str], *, kinds: str) -> str:
        """The end of a message about an unknown name: the nearest one, or what there is."""
        names = list(known)
        if not names:
            return f"there are no {kinds}"
        self.num_suggested += 1
        if self.num_suggested <= MAX_SUGGESTIONS:
            near = difflib.get_close_matches(wrong[:64], names[:MAX_COMPARED], n=1)
            if near:
                return f"did you mean {near[0]!r}?"
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"{kinds} are {shown}"

    def raise_if_any(self) -> None:
        """
        Raises:
            PlanError: there is at least one fault; it names them all.
        """
        if self.problems:
            raise PlanError(self.problems)
