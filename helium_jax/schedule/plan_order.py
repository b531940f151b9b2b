"""The order in which a plan's calls are wanted: the soft schedule, in windows of rows.

The soft schedule (paper section 6) goes over the whole batch once per sequence of operators. Where
rows keep pages for their own later calls, those pages would have to last that long. So as many rows
are begun together as the engines can work on at once, and the next ones when there is room: pages
are used again before they must go, and what is wide in one row runs beside what is narrow in
another. In simulations of debates and trading this was worth more than any order within a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.soft_schedule import SoftSchedule

FILL = 0.75  # of the engines' places, that one window of rows shall fill by itself
TAIL = 2  # windows that the last one takes in, so that the end of a run is wide


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOrder:
    """Places of all calls in one order; it never puts a call before one that it needs.

    Attributes:
        schedule: the order within a window.
        window: rows that are begun together.
    """

    schedule: SoftSchedule
    window: int
    _windows: Mapping[int, int] = field(init=False, repr=False)  # per row

    def __post_init__(self) -> None:
        rows = self.schedule.rows
        last = max(len(rows) // self.window - TAIL, 0)
        windows = {row: min(place // self.window, last) for place, row in enumerate(rows)}
        object.__setattr__(self, "_windows", windows)

    def rank(self, operator: str, row: int) -> int:
        """The place of a call; one that was not planned comes first in its row's window."""
        num_calls = len(self.schedule.graph.nodes) * self.schedule.graph.num_rows
        window = self._windows.get(row, 0)
        return window * (num_calls + 1) + self.schedule.rank(operator, row) + 1


def choose_window(schedule: SoftSchedule, setting: DispatchSetting) -> int:
    """How many rows to begin together."""
    graph = schedule.graph
    rows = max(graph.num_rows, 1)
    if schedule.refined is not None or not graph.nodes:
        return rows  # so small that every single call has its place
    mean = sum(n.prompt_tokens + n.output_tokens for n in graph.nodes) / len(graph.nodes)
    places = min(setting.max_num_seqs, setting.kv_tokens / max(mean, 1.0))
    parallel = len(graph.nodes) / _depth(graph)  # calls of a row at once, on average
    return min(max(int(FILL * setting.num_workers * places / parallel), 1), rows)


def _depth(graph: CallGraph) -> int:
    depth: dict[str, int] = {}
    for node in graph.nodes:
        depth[node.name] = 1 + max((depth[need] for need in node.needs), default=0)
    return max(depth.values(), default=1)
