"""Where rows come from: a volume, a hub or an object store; alone, in a mix, or for validation."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import (
    HubId,
    PathPattern,
    ResourceModel,
    Revision,
    Rule,
    SecretKeyRef,
    Text,
)


class DataOrigin(StrEnum):
    """Where rows are read from."""

    MODEL_SCOPE = "ModelScope"
    HUGGING_FACE = "HuggingFace"
    VOLUME = "Volume"
    S3 = "S3"


ObjectUrl = Annotated[
    str,
    Text(
        r"^s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]/[^ \t\r\n]+$",
        1024,
        "s3://bucket/key: an object, all below a key that ends with /, or a pattern with * and ?",
    ),
]
Endpoint = Annotated[
    str,
    Text(r"^https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?$", 300, "a URL such as https://minio.example:9000, without a path"),
]
Region = Annotated[str, Text(r"^[a-z0-9-]+$", 64, "a region such as eu-central-1: lower-case letters, digits and -")]


class S3Access(ResourceModel):
    """How an S3-compatible store is reached."""

    endpoint: Endpoint | None = None
    """Of a store that is not Amazon's; one of those that the operator's admin allows."""
    region: Region = "us-east-1"
    """That requests are signed for; many stores take any."""
    access_key_secret: SecretKeyRef | None = None
    """Access key id; without it the objects are read anonymously."""
    secret_key_secret: SecretKeyRef | None = None
    """Secret access key."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.accessKeySecret) == has(self.secretKeySecret)",
            "accessKeySecret and secretKeySecret make a pair; give both or neither",
        ),
    )

    @model_validator(mode="after")
    def _keys_are_a_pair(self) -> Self:
        if (self.access_key_secret is None) != (self.secret_key_secret is None):
            raise ValueError("accessKeySecret and secretKeySecret make a pair; give both or neither")
        return self


_NAMED = {
    DataOrigin.VOLUME: "path",
    DataOrigin.S3: "url",
    DataOrigin.HUGGING_FACE: "id",
    DataOrigin.MODEL_SCOPE: "id",
}
_NOTHING_NAMED = "!has(self.path) && !has(self.url) && !has(self.id)"
_ONE_NAMED = (
    "(self.source == 'Volume' ? has(self.path) && !has(self.url) && !has(self.id)"
    " : self.source == 'S3' ? has(self.url) && !has(self.path) && !has(self.id)"
    " : has(self.id) && !has(self.path) && !has(self.url))"
)
ONE_NAMED_WORDS = (
    "source {self.source} takes `{self.source == 'Volume' ? 'path' : self.source == 'S3' ? 'url' : 'id'}` and no other"
    " of path, url and id; there is {has(self.path) ? 'path ' : ''}{has(self.url) ? 'url ' : ''}{has(self.id) ? 'id' :"
    " (has(self.path) || has(self.url) ? '' : 'none of them')}"
)
_OPTIONS_FIT = Rule(
    "(self.source == 'HuggingFace' || self.source == 'ModelScope'"
    " || (!has(self.file) && !has(self.revision) && !has(self.tokenSecret))) && (self.source == 'S3' || !has(self.s3))",
    "source {self.source}: file, revision and tokenSecret belong to a hub, s3 belongs to S3; remove them",
)


class DataSource(ResourceModel):
    """Files of rows from one place: JSON arrays, JSON lines, CSV or Parquet, each also packed with gzip."""

    source: DataOrigin = DataOrigin.VOLUME
    path: PathPattern | None = None
    """With source Volume: a file, a folder of files, or a pattern with * and ?, below the inputs volume (or, without
    one, the cache volume)."""
    id: HubId | None = None
    """With a hub: the dataset repository."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub; default: `main` on Hugging Face, `master` on ModelScope."""
    file: PathPattern | None = None
    """With a hub: the file in the repository, or a pattern with * and ?; default: the files of its train split."""
    token_secret: SecretKeyRef | None = None
    """Token for a gated or private repository."""
    url: ObjectUrl | None = None
    """With source S3: an object, everything below a key that ends with /, or a pattern with * and ?."""
    s3: S3Access | None = None
    """With source S3: how the store is reached; default: Amazon's, anonymously."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule(_ONE_NAMED, ONE_NAMED_WORDS), _OPTIONS_FIT)

    @property
    def named(self) -> tuple[str, ...]:
        """Which of path, url and id are there."""
        values = {"path": self.path, "url": self.url, "id": self.id}
        return tuple(name for name, value in values.items() if value is not None)

    @property
    def has_options(self) -> bool:
        """Whether there is anything that belongs to a hub or a store."""
        return bool(self.file or self.revision or self.token_secret or self.s3)

    def check_source(self) -> None:
        """Raise ValueError unless exactly what the source takes is named, and nothing that belongs to another one."""
        wanted = _NAMED[self.source]
        if self.named != (wanted,):
            raise ValueError(
                f"source {self.source} takes `{wanted}` and no other of path, url and id; there is "
                f"{' '.join(self.named) or 'none of them'}"
            )
        self.check_options()

    def check_options(self) -> None:
        """Raise ValueError if there is an option that belongs to another source."""
        of_hub = self.file or self.revision or self.token_secret
        if (of_hub and _NAMED[self.source] != "id") or (self.s3 and self.source is not DataOrigin.S3):
            raise ValueError(
                f"source {self.source}: file, revision and tokenSecret belong to a hub, s3 belongs to S3; remove them"
            )


class MixSource(DataSource):
    """One of several sources."""

    weight: float = Field(default=1.0, gt=0, le=100)
    """How often each of its rows stands in an epoch: 2 is twice; 0.5 is one half of the rows, chosen by the seed, the
    same in every epoch."""

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        self.check_source()
        return self


class Validation(DataSource):
    """Rows held out of training to measure the loss on: a share of the rows, or files of their own.

    A row to train on that equals a held-out one is held out with it, or left out of training.
    """

    fraction: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the rows, chosen by the seed and the rows' content; 0: none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(f"({_NOTHING_NAMED}) ? self.source == 'Volume' : {_ONE_NAMED}", ONE_NAMED_WORDS),
        _OPTIONS_FIT,
        Rule(
            f"self.fraction <= 0.0 || ({_NOTHING_NAMED})",
            "fraction {self.fraction} takes rows of the training data, and a source of its own is named too; keep one",
        ),
    )

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        if self.named or self.source is not DataOrigin.VOLUME:
            self.check_source()
        self.check_options()
        if self.fraction and self.named:
            raise ValueError(
                f"fraction {self.fraction} takes rows of the training data, and a source of its own is named too; "
                "keep one"
            )
        return self


class BadRowPolicy(StrEnum):
    """What happens when rows cannot be trained on."""

    REFUSE = "Refuse"
    SKIP = "Skip"


class BadRows(ResourceModel):
    """What happens to rows that cannot be trained on; a file that breaks off is always refused."""

    policy: BadRowPolicy = BadRowPolicy.REFUSE
    """Refuse names them all and fails; Skip leaves them out and counts them."""
    limit: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """With Skip: more bad rows than this are refused after all; default: one row in a hundred."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.policy == 'Skip' || !has(self.limit)",
            "limit, how many bad rows may be left out, goes with policy Skip; remove it for policy Refuse",
        ),
    )

    @model_validator(mode="after")
    def _limit_fits(self) -> Self:
        if self.policy is BadRowPolicy.REFUSE and self.limit is not None:
            raise ValueError(
                "limit, how many bad rows may be left out, goes with policy Skip; remove it for policy Refuse"
            )
        return self
