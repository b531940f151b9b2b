"""In which order and on which worker the calls of a plan run.

What is planned here is a preference among calls that are ready. Not here: what a step is
(`helium_jax.physical`), running it (`helium_jax.executor`), and the steps of a worker, which belong
to its engine.
"""

from helium_jax.schedule.building import PlannedCalls, build_call_graph
from helium_jax.schedule.call_graph import CallGraph, CallNode, Segment
from helium_jax.schedule.prefix_tree import PrefixTree
from helium_jax.schedule.soft_schedule import SoftSchedule, plan_schedule, reschedule
from helium_jax.schedule.templates import PromptEncoder

__all__ = [
    "CallGraph",
    "CallNode",
    "PlannedCalls",
    "PrefixTree",
    "PromptEncoder",
    "Segment",
    "SoftSchedule",
    "build_call_graph",
    "plan_schedule",
    "reschedule",
]
