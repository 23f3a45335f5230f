"""What every contract model shares: frozen, strict about unknown keys, camel-free JSON."""

from pydantic import BaseModel, ConfigDict, ValidationError

CONTRACT_VERSION = 1
"""Raised whenever a field changes meaning; operator and trainer image refuse each other's other versions."""


class ContractModel(BaseModel):
    """An immutable message between operator and trainer; an unknown key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class _Versioned(BaseModel):
    """All that is known of a message of another version."""

    version: int


def foreign_version(message: str) -> int | None:
    """The version of the contract that `message` was written by, if it is another one than ours."""
    try:
        version = _Versioned.model_validate_json(message).version
    except ValidationError:
        return None
    return None if version == CONTRACT_VERSION else version
