"""What every contract model shares: frozen, strict about unknown keys, camel-free JSON, of one version."""

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

CONTRACT_VERSION = 1
"""Raised whenever a field changes meaning; operator and trainer image refuse each other's other versions."""


class ContractModel(BaseModel):
    """An immutable message between operator and trainer; an unknown key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


Message = TypeVar("Message", bound=ContractModel)


class ContractMismatchError(ValueError):
    """The other side is of another release."""


def read_message(model: type[Message], text: str) -> Message:
    """The message in `text`. Raises ContractMismatchError for what another release wrote, which names both versions."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        words = mismatch(text) or f"no {model.__name__} of contract version {CONTRACT_VERSION}: {error}"
        raise ContractMismatchError(words) from None


def mismatch(text: str) -> str | None:
    """What to say of a message of another contract version; None: it is of ours, or no message."""
    try:
        version = json.loads(text)["version"]
    except (ValueError, TypeError, KeyError):
        return None
    if version == CONTRACT_VERSION:
        return None
    return (
        f"the other side speaks contract version {version}, and this one version {CONTRACT_VERSION}; operator and "
        "trainer image must be of the same release: see image and trainer.image in the chart's values"
    )
