"""The whole resource, and the parser that every body passes through."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from finetune_operator.resource.base import GROUP, KIND, MAX_NAME_LENGTH, PLURAL, VERSION, ResourceModel, Rule, Text
from finetune_operator.resource.evaluation import Evaluation
from finetune_operator.resource.inputs import Dataset, Model
from finetune_operator.resource.output import Output
from finetune_operator.resource.parallelism import Parallelism
from finetune_operator.resource.platform import Resources, Storage, Tracking
from finetune_operator.resource.recovery import Recovery
from finetune_operator.resource.scheduling import Scheduling
from finetune_operator.resource.stability import Stability
from finetune_operator.resource.training import Checkpoint, Method, MethodType, Training


class Mode(StrEnum):
    """Run it, or only work out and report what would run."""

    RUN = "Run"
    PLAN = "Plan"


_NOTHING_HELD_OUT = (
    "evaluation looks at rows that are held out, and there are none: set dataset.validation.fraction, such as 0.02,"
    " or name a source in dataset.validation"
)


class Spec(ResourceModel):
    """What the user wants. Only model and dataset are required."""

    model: Model
    dataset: Dataset
    method: Method = Method()
    training: Training = Training()
    parallelism: Parallelism = Parallelism()
    evaluation: Evaluation = Evaluation()
    stability: Stability = Stability()
    checkpoint: Checkpoint = Checkpoint()
    output: Output = Output()
    storage: Storage = Storage()
    tracking: Tracking = Tracking()
    scheduling: Scheduling = Scheduling()
    recovery: Recovery = Recovery()
    resources: Resources = Resources()
    suspend: bool = False
    """true: save and stop, and give the GPUs back; false: go on from there."""
    mode: Mode = Mode.RUN
    """Plan: prepare the data, work everything out, report it in status, take no GPU."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.parallelism.nodes * self.parallelism.gpusPerNode <= self.training.globalBatch.samples"
            " && self.training.globalBatch.samples % (self.parallelism.nodes * self.parallelism.gpusPerNode) == 0",
            "{self.training.globalBatch.samples} samples cannot be shared by {self.parallelism.nodes} nodes x"
            " {self.parallelism.gpusPerNode} GPUs = {self.parallelism.nodes * self.parallelism.gpusPerNode} ranks;"
            " use a multiple of that, or another number of GPUs",
            ".training.globalBatch.samples",
        ),
        Rule(
            "!has(self.training.globalBatch.ramp) || self.training.globalBatch.ramp.fromSamples"
            " % (self.parallelism.nodes * self.parallelism.gpusPerNode) == 0",
            "{self.training.globalBatch.ramp.fromSamples} samples cannot be shared by {self.parallelism.nodes} nodes x"
            " {self.parallelism.gpusPerNode} GPUs = {self.parallelism.nodes * self.parallelism.gpusPerNode} ranks;"
            " use a multiple of that which divides globalBatch.samples, or another number of GPUs",
            ".training.globalBatch.ramp.fromSamples",
        ),
        Rule(
            "self.dataset.validation.fraction > 0.0 || has(self.dataset.validation.path)"
            " || has(self.dataset.validation.url) || has(self.dataset.validation.id) || !("
            "has(self.evaluation.everySteps) || has(self.evaluation.patience) || self.evaluation.keepBest"
            " || self.evaluation.loadBest)",
            _NOTHING_HELD_OUT,
            ".evaluation",
        ),
        Rule(
            "self.method.type != 'Full' || !has(self.output.push) || !has(self.output.push.what)",
            "output.push.what chooses between adapter and merged model, and method Full makes a single whole model;"
            " remove it",
            ".output.push.what",
        ),
    )

    @model_validator(mode="after")
    def _pushed_is_made(self) -> Self:
        push = self.output.push
        if self.method.type is MethodType.FULL and push is not None and push.what is not None:
            raise ValueError(
                f"output.push.what: {push.what} chooses between adapter and merged model, and method Full makes a "
                "single whole model; remove it"
            )
        return self

    @model_validator(mode="after")
    def _batch_is_whole(self) -> Self:
        samples, world_size = self.training.global_batch.samples, self.parallelism.world_size
        if samples % world_size:
            lower, upper = samples // world_size * world_size, -(-samples // world_size) * world_size
            legal = f"{lower} or {upper}" if lower else str(upper)
            raise ValueError(
                f"training.globalBatch.samples: {samples} cannot be shared by {self.parallelism.nodes} nodes x "
                f"{self.parallelism.gpus_per_node} GPUs = {world_size} ranks; use {legal}, or another number of GPUs"
            )
        return self

    @model_validator(mode="after")
    def _ramp_is_whole(self) -> Self:
        batch, world_size = self.training.global_batch, self.parallelism.world_size
        if batch.first_samples % world_size:
            legal = batch.nearest_first(world_size)
            raise ValueError(
                f"training.globalBatch.ramp.fromSamples: {batch.first_samples} cannot be shared by "
                f"{self.parallelism.nodes} nodes x {self.parallelism.gpus_per_node} GPUs = {world_size} ranks; "
                f"{f'use {legal}, or' if legal else 'remove ramp, or use'} another number of GPUs"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> Self:
        validation = self.dataset.validation
        if self.evaluation.is_asked_for and not (validation.fraction or validation.named):
            raise ValueError(_NOTHING_HELD_OUT)
        return self


RunName = Annotated[
    str,
    Text(
        r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        MAX_NAME_LENGTH,
        "a name of lower-case letters, digits and -, with a letter first: services and host names are made of it",
    ),
]


class Metadata(BaseModel):
    """The part of an object's metadata that decisions rest on."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, frozen=True, extra="ignore")

    name: RunName
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Qwen3FineTune(BaseModel):
    """A whole resource, its status left raw: `status.Status` reads that."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, frozen=True, extra="forbid")

    api_version: str = Field(default=f"{GROUP}/{VERSION}", pattern=f"^{GROUP}/{VERSION}$")
    kind: str = Field(default=KIND, pattern=f"^{KIND}$")
    metadata: Metadata
    spec: Spec
    status: dict[str, Any] = {}


class InvalidResourceError(ValueError):
    """A resource that cannot be understood; one line per mistake, each with the field's path."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def parse_resource(body: dict[str, Any]) -> Qwen3FineTune:
    """The resource in `body`. Raises InvalidResourceError that names every mistake at once."""
    try:
        return Qwen3FineTune.model_validate(body)
    except ValidationError as error:
        raise InvalidResourceError(tuple(_problem(item) for item in error.errors(include_url=False))) from None


def _problem(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown field; see `kubectl explain {PLURAL}.{_parent(path)}` for the known ones"
    seen = item.get("input")
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"{path}: wants a block of fields, and it is {seen!r}; see `kubectl explain {PLURAL}.{path}` for them"
    if item["type"] == "tuple_type":
        return f"{path}: wants a list, and it is {seen!r}"
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = f", and it is {seen!r}" if isinstance(seen, str | int | float) and item["type"] != "value_error" else ""
    return f"{path}: {message}{shown}"


def _parent(path: str) -> str:
    return path.rpartition(".")[0] or "spec"
