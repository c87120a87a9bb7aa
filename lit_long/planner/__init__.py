"""Plans: does a recipe fit a device, how fast does it run there, and what does it cost; nothing is trained."""

from lit_long.planner.advice import cheapest_change, longest_sequence, search
from lit_long.planner.layout import Layout, layout_of
from lit_long.planner.plan import Plan, StagePlan, make_plan
from lit_long.planner.workload import Rows, Workload, workload_of

__all__ = [
    "Layout",
    "Plan",
    "Rows",
    "StagePlan",
    "Workload",
    "cheapest_change",
    "layout_of",
    "longest_sequence",
    "make_plan",
    "search",
    "workload_of",
]
