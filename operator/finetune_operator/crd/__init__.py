"""The CustomResourceDefinition, generated from the resource models: `python -m finetune_operator.crd`."""

from finetune_operator.crd.definition import definition
from finetune_operator.crd.files import generated, to_yaml

__all__ = ["definition", "generated", "to_yaml"]
