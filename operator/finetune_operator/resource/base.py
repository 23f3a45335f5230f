"""What every block of the resource shares: its model, CEL rules, and bounded text types."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

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
    """What to do about it; `{self.rank}` shows the value of a CEL expression."""
    field: str | None = None
    """JSONPath below the object, such as `.lora`."""


@dataclass(frozen=True, slots=True)
class Text:
    """Makes a `str` bounded and patterned; the same words name the remedy here and on the API server.

    The pattern must mean the same to Python's and to Go's regular expressions: spell `\\w` and `\\d` out, since they
    are Unicode here and ASCII there.
    """

    pattern: str
    max_length: int
    remedy: str
    """Completes the sentence "must be ..."."""
    or_integer: bool = False
    """A bare number is read as its text."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(max_length=self.max_length)
        checked = core_schema.no_info_after_validator_function(self._checked, text)
        return core_schema.no_info_before_validator_function(_as_text, checked) if self.or_integer else checked

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        kind = ["integer", "string"] if self.or_integer else "string"
        return {"type": kind, "maxLength": self.max_length, "pattern": self.pattern, "remedy": f"must be {self.remedy}"}

    def _checked(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise PydanticCustomError("text", "must be {remedy}", {"remedy": self.remedy})
        return value


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


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


_FOLDER_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""No part of a path begins with a dot, so `..` cannot be written; nor with a dash, so nothing looks like an option."""

Name = Annotated[
    str,
    Text(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253, "an object's name: lower-case letters, digits, - and . inside"),
]
SecretKey = Annotated[str, Text(r"^[-._a-zA-Z0-9]+$", 253, "a Secret's key: letters, digits, -, _ and .")]
HubId = Annotated[
    str, Text(f"^{_FOLDER_PART}/{_FOLDER_PART}$", 200, "owner/name as the hub shows it, such as Qwen/Qwen3-8B")
]
Revision = Annotated[
    str, Text(f"^{_FOLDER_PART}(/{_FOLDER_PART})*$", 100, "a branch, tag or commit: letters, digits, _, ., / and -")
]
RelativePath = Annotated[
    str,
    Text(
        f"^{_FOLDER_PART}(/{_FOLDER_PART})*$",
        512,
        "a path below the volume, such as data/rows.json: not absolute, no `..`, no part that begins with a dot",
    ),
]
_PATTERN_PART = "[A-Za-z0-9_*?][A-Za-z0-9_.*?-]*"
PathPattern = Annotated[
    str,
    Text(
        f"^{_PATTERN_PART}(/{_PATTERN_PART})*$",
        512,
        "a path below the volume or in the repository, such as data/rows.json or data/*.jsonl: not absolute, no `..`,"
        " no part that begins with a dot",
    ),
]
Quantity = Annotated[
    str,
    Text(
        r"^[1-9][0-9]{0,14}(\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
        20,
        "a positive quantity, such as 8, 1500m or 64Gi",
        or_integer=True,
    ),
]
LabelValue = Annotated[
    str,
    Text(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", 63, "a label's value: letters, digits, -, _ and . inside"),
]
LabelKey = Annotated[
    str,
    Text(
        r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        253,
        "a label's key, such as nvidia.com/gpu.product",
    ),
]


class SecretKeyRef(ResourceModel):
    """One key of a Secret in the run's namespace."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})  # a name and its key go together

    name: Name
    """Of the Secret."""
    key: SecretKey
    """In the Secret."""
