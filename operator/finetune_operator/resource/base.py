"""What every block of the resource shares: its model, CEL rules, and bounded text types."""

from typing import Annotated, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

GROUP = "finetune.qwen3.io"
VERSION = "v1alpha1"
KIND = "Qwen3FineTune"
PLURAL = "qwen3finetunes"

MAX_NAME_LENGTH = 48
"""So that `<name>-r999-9999` and its five random characters fit a pod's 63, and `<name>-prepare-xxxxx` too."""


class Rule(NamedTuple):
    """A CEL rule of the CRD, on the object that carries it."""

    expression: str
    message: str
    field: str | None = None
    """JSONPath below the object, such as `.lora`."""


class ResourceModel(BaseModel):
    """camelCase outside, snake_case inside; unknown keys are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
SecretKey = Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
HubId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)]
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=512)
]
"""Relative, and no part begins with a dot: so `..` and absolute paths cannot be written."""
Quantity = Annotated[
    str, StringConstraints(pattern=r"^[1-9][0-9]{0,14}(\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=20)
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=63)]
LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=253
    ),
]


class SecretKeyRef(ResourceModel):
    """One key of a Secret in the run's namespace."""

    name: Name
    key: SecretKey
