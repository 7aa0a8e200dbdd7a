"""The model families by the name that a stored config gives."""

from trainers.models.family import Family
from trainers.models.resnet import FAMILY as RESNET50

FAMILIES: dict[str, Family] = {family.name: family for family in (RESNET50,)}
