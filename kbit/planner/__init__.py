"""Plans: under a budget of memory, which model at which format is the best to run, and how sure that is."""

from kbit.planner.answer import Plan
from kbit.planner.choice import Choice
from kbit.planner.memory import Footprint, footprint, parse_size
from kbit.planner.plan import plan

__all__ = ["Choice", "Footprint", "Plan", "footprint", "parse_size", "plan"]
