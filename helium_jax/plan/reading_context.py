"""What the readers of one plan document share: faults found, and how names and paths change."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import MAX_NESTING, MAX_OPS
from helium_jax.plan.nodes import Input, Param

NO_NAME = ""  # stands where a name could not be read, and counts as one that exists
ANY_NAME = "*"  # among unread names: there may be others, so that no name can be called unknown


@dataclass(slots=True, kw_only=True)
class Reading:
    """The reading of one plan or sub-plan.

    Attributes:
        found: faults, in the order of the document.
        inputs: of this plan, by name.
        params: of this plan, by name.
        depth: bodies and sub-plans around what is read.
        num_ops: read so far, in all plans of the document.
        unread: names that exist although they could not be read.
        paths: other paths for the beginnings of some; see `author_path`.
        aliases: what `sub` and `sub/output` of sub-plans stand for.
    """

    found: Findings
    inputs: Mapping[str, Input]
    params: Mapping[str, Param]
    depth: int = 0
    num_ops: int = 0
    unread: set[str] = field(default_factory=set)
    paths: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def may_hold(self, num_ops: int, path: str) -> bool:
        """Whether a scope of so many operators may be read; a fault once if not."""
        before = self.num_ops
        self.num_ops += num_ops
        message = ""
        if self.num_ops > MAX_OPS:
            message = f"has {num_ops} entries; at most {MAX_OPS} operators are allowed in all"
        elif self.depth > MAX_NESTING:
            message = f"is more than {MAX_NESTING} bodies and sub-plans deep; flatten the plan"
        if message:
            self.unread.add(ANY_NAME)
            if before <= MAX_OPS:
                self.found.add(path, message, "plan_too_large")
        return not message


def author_path(path: str, paths: Mapping[str, str]) -> str:
    """The author's path for a canonical one: the longest beginning that is in `paths` changes.

    What an operator of a sub-plan is called may change first, and then its field.
    """
    for _ in range(MAX_NESTING + 2):
        ends = (end for end in range(len(path), 0, -1) if end == len(path) or path[end] in ".[")
        end = next((end for end in ends if path[:end] in paths), None)
        if end is None:
            break
        path = paths[path[:end]] + path[end:]
    return path
