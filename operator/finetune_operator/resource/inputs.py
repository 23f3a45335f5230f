"""What a run starts from: the model and the dataset."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from finetune_contract import FORMAT_COLUMNS, DatasetFormat, check_columns
from finetune_operator.resource.base import HubId, RelativePath, ResourceModel, Revision, Rule, SecretKeyRef, Text
from finetune_operator.resource.data_sources import BadRows, DataOrigin, DataSource, MixSource, Validation


class Source(StrEnum):
    """Where something is fetched from."""

    MODEL_SCOPE = "ModelScope"
    HUGGING_FACE = "HuggingFace"
    VOLUME = "Volume"


_ONE_SOURCE = (
    "source {self.source} takes {self.source == 'Volume' ? '`path` and no `id`' : '`id` and no `path`'}, "
    "and path is {has(self.path) ? self.path : 'absent'}, id is {has(self.id) ? self.id : 'absent'}"
)
"""A model or a dataset comes from a volume or from a hub, never from both."""


class Model(ResourceModel):
    """The model to start from."""

    id: HubId | None = None
    """Repository on the hub, such as `Qwen/Qwen3-8B`."""
    source: Source = Source.HUGGING_FACE
    revision: Revision | None = None
    """Branch, tag or commit on the hub; default: `main` on Hugging Face, `master` on ModelScope."""
    path: RelativePath | None = None
    """With source Volume: folder below the inputs volume (or, without one, the cache volume)."""
    token_secret: SecretKeyRef | None = None
    """Token for a gated or private repository."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.source == 'Volume' ? has(self.path) && !has(self.id) : has(self.id) && !has(self.path)",
            _ONE_SOURCE,
        ),
        Rule(
            "self.source != 'Volume' || (!has(self.revision) && !has(self.tokenSecret))",
            "revision and tokenSecret belong to a hub; remove them for source Volume",
        ),
    )

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        _check_source(self.source, id_=self.id, path=self.path)
        if self.source is Source.VOLUME and (self.revision or self.token_secret):
            raise ValueError("revision and tokenSecret belong to a hub; remove them for source Volume")
        return self


class Format(StrEnum):
    """How a row of the dataset is laid out."""

    AUTO = "Auto"
    ALPACA = "Alpaca"
    MESSAGES = "Messages"
    SHARE_GPT = "ShareGpt"
    PROMPT_COMPLETION = "PromptCompletion"
    TEXT = "Text"


class Overlong(StrEnum):
    """What happens to a row that renders to more than maxTokens tokens."""

    TRUNCATE = "Truncate"
    DROP = "Drop"
    REFUSE = "Refuse"


class Thinking(StrEnum):
    """What happens to think blocks in assistant turns."""

    AUTO = "Auto"
    KEEP = "Keep"
    STRIP = "Strip"


class Supervise(StrEnum):
    """Which answers of a conversation are learnt."""

    ALL_TURNS = "AllTurns"
    LAST_TURN = "LastTurn"


_TEXT_AS_IT_STANDS = "format Text is learnt as it stands; thinking, supervise and systemPrompt are for conversations"

_COLUMN_NAMES = tuple(dict.fromkeys(name for columns in FORMAT_COLUMNS.values() for name in columns.names))
FormatColumn = Annotated[
    str, Text(f"^({'|'.join(_COLUMN_NAMES)})$", 16, f"a column that a format knows: {', '.join(_COLUMN_NAMES)}")
]
RowColumn = Annotated[str, Text(r"^[^\n\r\t]+$", 128, "the name of a column of the rows, in one line")]

_COLUMNS_FIT = "!has(self.columns) || " + " || ".join(
    f"(self.format in ['Auto', '{kind}'] && self.columns.all(name, name in {list(columns.names)}))"
    for kind, columns in FORMAT_COLUMNS.items()
)


_HAS_MIX = "(has(self.mix) && self.mix.size() > 0)"
_ALONE = (
    "self.source == 'Volume' && !has(self.path) && !has(self.url) && !has(self.id) && !has(self.file)"
    " && !has(self.revision) && !has(self.tokenSecret) && !has(self.s3)"
)
_MIX_ALONE = "beside mix no other source can be named; make it one of the mix"


class Dataset(DataSource):
    """The conversations to learn from."""

    mix: Annotated[tuple[MixSource, ...], Field(max_length=16)] = ()
    """Several sources with weights, in place of the one that is named here."""
    format: Format = Format.AUTO
    """How a row is laid out; Auto finds it by the column names, once for each file."""
    columns: Annotated[dict[FormatColumn, RowColumn], Field(max_length=8)] = Field(default_factory=dict)
    """Columns of other names, by the format's own, such as `{instruction: question, output: answer}`. Columns of the
    formats: Alpaca instruction, output, input, system, history, tools; Messages messages, tools; ShareGpt
    conversations, system, tools; PromptCompletion prompt, completion, tools; Text text."""
    max_tokens: int = Field(default=4096, ge=16, le=131072)
    """Longest sequence in tokens; with packing, the length of a packed sequence."""
    overlong: Overlong = Overlong.TRUNCATE
    """Rows that render to more than maxTokens tokens: keep their beginning, leave them out, or refuse the dataset."""
    packing: bool = True
    """Lay several conversations side by side in one sequence; they never see one another."""
    bad_rows: BadRows = BadRows()
    validation: Validation = Validation()
    thinking: Thinking = Thinking.AUTO
    """Think blocks of assistant turns: Auto trains those that have content, Keep all, Strip removes them."""
    supervise: Supervise = Supervise.ALL_TURNS
    """What is learnt of a conversation of several turns: every answer, or what the assistant says after the last user
    turn. Qwen3's templates show earlier answers without their reasoning, and AllTurns learns them as shown."""
    system_prompt: Annotated[str, StringConstraints(max_length=8192)] | None = None
    """Put before conversations that bring no system message of their own."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            _COLUMNS_FIT,
            "columns must be those of one format, and format is {self.format}; see the description of columns",
        ),
        Rule(
            "!has(self.columns)"
            " || self.columns.all(one, self.columns.exists_one(other, self.columns[other] == self.columns[one]))",
            "columns lets one column stand for two names; give each its own",
        ),
        Rule(
            "self.format != 'Text'"
            " || (self.thinking == 'Auto' && self.supervise == 'AllTurns' && !has(self.systemPrompt))",
            _TEXT_AS_IT_STANDS,
        ),
        Rule(f"!{_HAS_MIX} || ({_ALONE})", _MIX_ALONE),
        *(Rule(f"{_HAS_MIX} || ({rule.expression})", rule.message) for rule in DataSource.rules),
    )

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Where the rows to train on come from; one or several."""
        return self.mix or (self,)

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        if not self.mix:
            self.check_source()
        elif self.named or self.source is not DataOrigin.VOLUME or self.has_options:
            raise ValueError(_MIX_ALONE)
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        check_columns(self.columns, DatasetFormat(self.format))
        return self

    @model_validator(mode="after")
    def _options_have_use(self) -> Self:
        set_options = (self.thinking, self.supervise, self.system_prompt)
        if self.format is Format.TEXT and set_options != (Thinking.AUTO, Supervise.ALL_TURNS, None):
            raise ValueError(_TEXT_AS_IT_STANDS)
        return self


def _check_source(source: Source, *, id_: str | None, path: str | None) -> None:
    if source is Source.VOLUME and (path is None or id_ is not None):
        raise ValueError(f"source Volume takes `path` and no `id`, and path is {path!r}, id is {id_!r}")
    if source is not Source.VOLUME and (id_ is None or path is not None):
        raise ValueError(f"source {source} takes `id` and no `path`, and id is {id_!r}, path is {path!r}")
