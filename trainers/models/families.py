"""The model families by the name that a stored config gives."""

from trainers.models import cnn, efficientnet, inception, mesonet, resnet, vit, xception
from trainers.models.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (resnet, inception, xception, mesonet, cnn, vit, efficientnet)
}
