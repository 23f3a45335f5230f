"""What every block of the status is made of."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

MAX_ATTEMPTS = 20
"""Attempts kept in status; older ones are dropped from the front, their number stays in `restarts`."""

Line = Annotated[str, StringConstraints(max_length=256)]
Message = Annotated[str, StringConstraints(max_length=4096)]


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Timestamp = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", max_length=20),
    AfterValidator(_is_time),
]


class StatusModel(BaseModel):
    """camelCase outside; unknown keys are ignored, since a newer operator may have written them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )
