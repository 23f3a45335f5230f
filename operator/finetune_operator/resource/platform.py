"""What the run asks of the cluster: volumes, trackers, GPUs."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_operator.resource.base import Name, Quantity, ResourceModel, SecretKeyRef, Text


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
