"""What every contract model shares: frozen, strict about unknown keys, camel-free JSON."""

from pydantic import BaseModel, ConfigDict

CONTRACT_VERSION = 1
"""Raised whenever a field changes meaning; operator and trainer image refuse each other's other versions."""


class ContractModel(BaseModel):
    """An immutable message between operator and trainer; an unknown key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)
