"""Where a model and a dataset come from, as the trainer is told."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from finetune_contract.base import ContractModel


class HubKind(StrEnum):
    """Which public hub's client library fetches an id."""

    HUGGING_FACE = "HuggingFace"
    MODEL_SCOPE = "ModelScope"


class HubSource(ContractModel):
    """A repository on a hub.

    A token, if any, arrives in the environment (`HUB_TOKEN_ENV` and `dataset_token_env` of `paths`), never here.
    """

    type: Literal["Hub"] = "Hub"
    hub: HubKind
    id: str
    revision: str


class VolumeSource(ContractModel):
    """What is already on a volume, as an absolute path in the trainer's file system.

    For a model a folder; for a dataset a file, a folder of files, or a pattern with `*` and `?`.
    """

    type: Literal["Volume"] = "Volume"
    path: str


class S3Source(ContractModel):
    """Objects of an S3-compatible store.

    A key pair, if any, arrives in the environment (`dataset_access_key_env` and `dataset_secret_key_env` of `paths`),
    never here; without one the objects are read anonymously.
    """

    type: Literal["S3"] = "S3"
    url: str = Field(pattern=r"^s3://[^/]+/.+$")
    """`s3://bucket/key`: an object, everything below a key that ends with `/`, or a pattern with `*` and `?`."""
    endpoint: str | None = None
    """Base URL of a store that is not Amazon's."""
    region: str = "us-east-1"


ModelSource = Annotated[HubSource | VolumeSource, Field(discriminator="type")]
AnySource = Annotated[HubSource | VolumeSource | S3Source, Field(discriminator="type")]


class DatasetFormat(StrEnum):
    """How a row of the dataset is laid out; FORMAT_COLUMNS names the columns of each."""

    AUTO = "Auto"
    """Found by the column names, once for each file."""
    ALPACA = "Alpaca"
    """instruction, input and output; history holds earlier [user, assistant] pairs."""
    MESSAGES = "Messages"
    """messages: OpenAI's list of {role, content}, with tool calls and their results."""
    SHARE_GPT = "ShareGpt"
    """conversations: a list of {from, value}; from is human, gpt, system, function_call or observation."""
    PROMPT_COMPLETION = "PromptCompletion"
    """prompt and completion, both text or both lists of messages; of a prompt nothing is learnt."""
    TEXT = "Text"
    """text: plain text, learnt from end to end without a chat template (continued pretraining)."""


class FormatColumns(NamedTuple):
    """What a row of a format may hold; other columns are left alone."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.required + self.optional


FORMAT_COLUMNS: Mapping[DatasetFormat, FormatColumns] = {
    DatasetFormat.ALPACA: FormatColumns(("instruction", "output"), ("input", "system", "history", "tools")),
    DatasetFormat.MESSAGES: FormatColumns(("messages",), ("tools",)),
    DatasetFormat.SHARE_GPT: FormatColumns(("conversations",), ("system", "tools")),
    DatasetFormat.PROMPT_COMPLETION: FormatColumns(("prompt", "completion"), ("tools",)),
    DatasetFormat.TEXT: FormatColumns(("text",)),
}


def _formats_with(columns: Collection[str], wanted: DatasetFormat) -> tuple[DatasetFormat, ...]:
    """The formats, of those that `wanted` allows, that know all of these columns."""
    allowed = FORMAT_COLUMNS if wanted is DatasetFormat.AUTO else (wanted,)
    return tuple(each for each in allowed if set(columns) <= set(FORMAT_COLUMNS[each].names))


def check_columns(columns: Mapping[str, str], wanted: DatasetFormat) -> None:
    """Raise ValueError unless one format knows all the names, and no column stands for two of them."""
    if not _formats_with(columns, wanted):
        known = FORMAT_COLUMNS if wanted is DatasetFormat.AUTO else (wanted,)
        names = "; ".join(f"{each}: {', '.join(FORMAT_COLUMNS[each].names)}" for each in known)
        raise ValueError(
            f"columns names {', '.join(columns)}, and format is {wanted}; allowed are the names of {names}"
        )
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"columns lets one column stand for two names: {dict(columns)}")


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


class Supervise(StrEnum):
    """Which answers of a conversation are learnt."""

    ALL_TURNS = "AllTurns"
    """Every assistant turn, each as the template renders it in the whole conversation."""
    LAST_TURN = "LastTurn"
    """What the assistant says after the last user turn, calls of tools on the way included."""


class DataSource(ContractModel):
    """Files of rows from one place."""

    source: AnySource
    file: str | None = None
    """For a Hub source: the file in the repository, or a pattern with `*` and `?`; None: those of its train split."""
    weight: float = Field(default=1.0, gt=0)
    """How often each of its rows stands in an epoch; of a fraction, a share of the rows that the seed chooses once."""


class ValidationConfig(ContractModel):
    """Rows held out of training: a share of the rows, or files of their own; without either there are none."""

    fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the rows of the training sources, chosen by seed and content."""
    source: DataSource | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.fraction and self.source:
            raise ValueError(f"validation: fraction {self.fraction} beside a source of its own; give one of the two")
        return self


class BadRowPolicy(StrEnum):
    """What happens when rows cannot be trained on."""

    REFUSE = "Refuse"
    """Fail the preparation and name the rows."""
    SKIP = "Skip"
    """Leave them out and count them, up to a limit."""


class BadRows(ContractModel):
    """The policy for rows that cannot be trained on; a file that breaks off is always refused."""

    policy: BadRowPolicy = BadRowPolicy.REFUSE
    limit: int | None = Field(default=None, ge=1)
    """With SKIP: more bad rows than this are refused after all; None: one row in a hundred."""


class DatasetConfig(ContractModel):
    """The rows to learn from, and how they become token sequences."""

    sources: tuple[DataSource, ...] = Field(min_length=1, max_length=16)
    """Where the rows to train on come from."""
    format: DatasetFormat = DatasetFormat.AUTO
    columns: dict[str, str] = Field(default_factory=dict, max_length=8)
    """Which column of the rows stands for one of the format's own, such as {"output": "answer"}."""
    max_tokens: int = Field(ge=16)
    """Longest sequence, in tokens; with packing the length of a packed sequence."""
    overlong: OverlongPolicy = OverlongPolicy.TRUNCATE
    packing: bool = True
    validation: ValidationConfig = ValidationConfig()
    bad_rows: BadRows = BadRows()
    thinking: Thinking = Thinking.AUTO
    supervise: Supervise = Supervise.ALL_TURNS
    system_prompt: str | None = None
    """Put before rows that bring no system message of their own."""
    seed: int = Field(ge=0)
    """Decides the validation split, what stands for a fraction of a weight, and the packing."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        check_columns(self.columns, self.format)
        return self

    @model_validator(mode="after")
    def _options_have_use(self) -> Self:
        if self.format is DatasetFormat.TEXT and self.conversation_options:
            raise ValueError(
                f"format Text is learnt as it stands; remove {', '.join(self.conversation_options)}, which are for "
                "conversations"
            )
        return self

    @property
    def conversation_options(self) -> tuple[str, ...]:
        """Options that are set and say something of conversations alone."""
        fields = {"thinking": Thinking.AUTO, "supervise": Supervise.ALL_TURNS, "system_prompt": None}
        return tuple(name for name, default in fields.items() if getattr(self, name) != default)
