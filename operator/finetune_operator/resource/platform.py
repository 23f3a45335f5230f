"""What the run asks of the cluster: volumes, trackers, placement, recovery, GPUs."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import (
    LabelKey,
    LabelValue,
    Name,
    Quantity,
    ResourceModel,
    Rule,
    SecretKeyRef,
    Text,
)


class ClaimRef(ResourceModel):
    """A PersistentVolumeClaim in the run's namespace."""

    claim_name: Name
    """Of the claim."""


class CacheStorage(ResourceModel):
    """Volume for models and tokenized data, shared between runs."""

    claim_name: Name | None = None
    """An existing claim; without it the run gets a claim of its own, deleted with the run."""
    size: Quantity = "100Gi"
    """Of the claim that is created."""
    storage_class: Name | None = None
    """Of the claim that is created; default: the cluster's default class."""


class Retention(StrEnum):
    """What happens to the created output claim when the run is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class OutputStorage(ResourceModel):
    """Volume for checkpoints and results."""

    claim_name: Name | None = None
    """An existing claim; the run writes below a folder of its own name. Never deleted."""
    size: Quantity = "50Gi"
    """Of the claim that is created."""
    storage_class: Name | None = None
    """Of the claim that is created; default: the cluster's default class."""
    on_delete: Retention = Retention.RETAIN
    """Whether the claim that was created stays or goes when the run is deleted."""


class Storage(ResourceModel):
    """The volumes of a run."""

    inputs: ClaimRef | None = None
    """Read-only volume that Volume sources are read from; default: the cache volume."""
    cache: CacheStorage = CacheStorage()
    output: OutputStorage = OutputStorage()


HttpUrl = Annotated[str, Text(r"^https?://[^\s]+$", 300, "a URL that begins with http:// or https://")]


class SwanLab(ResourceModel):
    """Metrics to SwanLab besides the Prometheus endpoint."""

    project: Annotated[str, Text(r"^[A-Za-z0-9_.+-]+$", 100, "a project's name: letters, digits, _, ., + and -")]
    """Created when it is not there."""
    workspace: Annotated[str, Text(r"^[A-Za-z0-9_.-]+$", 100, "a workspace: letters, digits, _, . and -")] | None = None
    """Default: the API key's own."""
    host: HttpUrl | None = None
    """Base URL of a self-hosted SwanLab."""
    api_key_secret: SecretKeyRef | None = None
    """Without a key the run is tracked offline, into the output volume."""


class TensorBoard(ResourceModel):
    """Event files in the folder `tensorboard` of the run's output."""


class Wandb(ResourceModel):
    """Metrics to Weights & Biases."""

    project: Annotated[str, Text(r"^[A-Za-z0-9_.-]+$", 100, "a project's name: letters, digits, _, . and -")]
    """Created when it is not there."""
    entity: Annotated[str, Text(r"^[A-Za-z0-9_.-]+$", 100, "a user or team: letters, digits, _, . and -")] | None = None
    """User or team; default: the API key's own."""
    host: HttpUrl | None = None
    """Base URL of a self-hosted server."""
    api_key_secret: SecretKeyRef | None = None
    """Without a key the run is tracked offline, into the output volume."""


class Mlflow(ResourceModel):
    """Metrics to an MLflow tracking server."""

    tracking_uri: HttpUrl
    """Of the server; the trainer's network policy, if there is one, must let its port through."""
    experiment: Annotated[str, Text(r"^[A-Za-z0-9_.-]+$", 100, "an experiment's name: letters, digits, _, . and -")]
    """Created when it is not there."""
    token_secret: SecretKeyRef | None = None
    """Bearer token, if the server wants one."""


class Tracking(ResourceModel):
    """Where metrics go besides the Prometheus endpoint. A tracker that is down or slow never stops or slows training.

    All attempts of a run are one run of a tracker.
    """

    swanlab: SwanLab | None = None
    tensorboard: TensorBoard | None = Field(default=None, alias="tensorboard")
    wandb: Wandb | None = None
    mlflow: Mlflow | None = None

    @property
    def secrets(self) -> dict[str, SecretKeyRef]:
        """The Secret of each tracker that needs one, by its field below `tracking`."""
        named = {
            "swanlab.apiKeySecret": self.swanlab.api_key_secret if self.swanlab else None,
            "wandb.apiKeySecret": self.wandb.api_key_secret if self.wandb else None,
            "mlflow.tokenSecret": self.mlflow.token_secret if self.mlflow else None,
        }
        return {field: secret for field, secret in named.items() if secret is not None}


class TolerationOperator(StrEnum):
    """How a toleration matches a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """Which effect of a taint is tolerated."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ResourceModel):
    """A taint that the training pods may sit beside, as in a Pod."""

    key: LabelKey
    """Of the taint."""
    operator: TolerationOperator = TolerationOperator.EXISTS
    value: LabelValue | None = None
    """Of the taint, with operator Equal."""
    effect: TaintEffect | None = None
    """Default: every effect."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.operator == 'Equal' || !has(self.value)",
            "a toleration's value goes with operator Equal, and operator is {self.operator}",
            ".value",
        ),
    )

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        if self.value is not None and self.operator is not TolerationOperator.EQUAL:
            raise ValueError("a toleration's value goes with operator Equal")
        return self


class Scheduling(ResourceModel):
    """Where and when the pods run."""

    priority_class: Name | None = None
    """One of those that the operator's admin allows."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[tuple["Toleration", ...], Field(max_length=16)] = ()
    """Taints that the training pods may sit beside."""
    pre_running_deadline_seconds: int | None = Field(default=None, ge=60, le=2_592_000)
    """Give up when no step was done this long after the run was created (suspended time not counted)."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Delete the finished resource after this long; default: keep it."""


class Recovery(ResourceModel):
    """What happens after a failed attempt."""

    max_restarts: int = Field(default=3, ge=0, le=100)
    """New attempts after failures that may pass; preemption and drained nodes do not count."""
    hang_timeout_seconds: int = Field(default=600, ge=60, le=86400)
    """A rank that does nothing for so long, or for ten usual steps if these take longer, is hung: the attempt is ended
    and counts as failed. Loading, the first step (half an hour), saving and exporting (an hour) are given more."""


class Resources(ResourceModel):
    """What one GPU brings along, and which GPU it is."""

    cpu_per_gpu: Quantity = "8"
    """Cores."""
    memory_per_gpu: Quantity = "64Gi"
    """Host memory, shared memory included."""
    gpu_resource: Annotated[
        str, Text(r"^[a-z0-9.-]+/[a-z0-9._-]+$", 100, "an extended resource, such as nvidia.com/gpu")
    ] = "nvidia.com/gpu"
    """What a node calls its GPUs."""
    gpu_memory: Quantity | None = None
    """Of one GPU; default: the nodes' nvidia.com/gpu.memory labels, else fit is not checked and the status says so."""
