"""Where a model and a dataset come from, as the trainer is told."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_contract.base import ContractModel


class HubKind(StrEnum):
    """Which public hub's client library fetches an id."""

    HUGGING_FACE = "HuggingFace"
    MODEL_SCOPE = "ModelScope"


class HubSource(ContractModel):
    """A repository on a hub.

    A token, if any, arrives in the environment (`HUB_TOKEN_ENV` and `DATASET_TOKEN_ENV` of `paths`), never here.
    """

    type: Literal["Hub"] = "Hub"
    hub: HubKind
    id: str
    revision: str


class VolumeSource(ContractModel):
    """A file or folder that is already on a volume, as an absolute path in the trainer's file system."""

    type: Literal["Volume"] = "Volume"
    path: str


ModelSource = Annotated[HubSource | VolumeSource, Field(discriminator="type")]


class DatasetFormat(StrEnum):
    """How a row of the dataset is laid out."""

    AUTO = "Auto"
    """Found by the column names."""
    ALPACA = "Alpaca"
    """instruction, input, output (system and history optional)."""
    MESSAGES = "Messages"
    """messages: a list of {role, content}."""


class OverlongPolicy(StrEnum):
    """What happens to a row that renders to more than `max_tokens` tokens."""

    TRUNCATE = "Truncate"
    """Keep the first `max_tokens` tokens; a row left without supervised tokens is dropped and counted."""
    DROP = "Drop"
    """Leave the row out, and count it."""
    REFUSE = "Refuse"
    """Fail the preparation and name the rows."""


class Thinking(StrEnum):
    """What happens to think blocks in assistant turns."""

    AUTO = "Auto"
    """Train the think blocks that have content; an empty one stays in the context, unsupervised."""
    KEEP = "Keep"
    """Train every think block, empty ones too."""
    STRIP = "Strip"
    """Remove reasoning from the rows before rendering; the template's empty block stays unsupervised."""


class DatasetConfig(ContractModel):
    """The rows to learn from, and how they become token sequences."""

    source: ModelSource
    """A file of JSON or JSON lines (Volume), or a dataset repository (Hub)."""
    file: str | None = None
    """For a Hub source: the file in the repository."""
    format: DatasetFormat = DatasetFormat.AUTO
    max_tokens: int = Field(ge=16)
    """Longest sequence, in tokens; with packing the length of a packed sequence."""
    overlong: OverlongPolicy = OverlongPolicy.TRUNCATE
    packing: bool = True
    validation_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the rows held out, chosen by seed; 0 means no validation."""
    thinking: Thinking = Thinking.AUTO
    system_prompt: str | None = None
    """Put before rows that bring no system message of their own."""
    seed: int = Field(ge=0)
    """Decides the validation split and the packing."""
