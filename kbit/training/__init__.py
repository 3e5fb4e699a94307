"""Training of a family of small language models, from scratch and resumable: the points of a scaling law."""

from kbit.training.family import FamilyPlan, train_family
from kbit.training.members import MEMBERS, Member

__all__ = ["MEMBERS", "FamilyPlan", "Member", "train_family"]
