"""What the admin decides: the operator's own settings, parsed once at start from one file that the chart renders."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel


class SettingsModel(BaseModel):
    """camelCase in the file; unknown keys are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Image(SettingsModel):
    """The trainer image that every run uses; users cannot choose another."""

    reference: str = "qwen3-finetune-trainer:0.1.0"
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()


class Pods(SettingsModel):
    """What the admin adds to every training pod."""

    environment: dict[str, str] = Field(default_factory=dict)
    """NCCL_SOCKET_IFNAME, NCCL_IB_HCA, HF_ENDPOINT and the like; they win over the operator's defaults."""
    shared_memory: str = "8Gi"
    """Size of the tmpfs at /dev/shm, per pod; it counts against the pod's memory, so the limit covers it."""
    grace_seconds: int = Field(default=300, ge=30, le=3600)
    """Between SIGTERM and SIGKILL; must cover one checkpoint."""
    user_id: int = Field(default=65532, ge=1)
    group_id: int = Field(default=65532, ge=1)
    runtime_class_name: str | None = None
    prepare_cpu: str = "2"
    prepare_memory: str = "8Gi"
    """Requests and limits of the pods that prepare, and of those that push."""


class Limits(SettingsModel):
    """What a run may ask for at most."""

    max_nodes: int = Field(default=64, ge=1)
    max_gpus_per_node: int = Field(default=8, ge=1)
    max_memory_per_gpu: Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")] | None = None
    """Host memory per GPU that runs may ask for, and up to which a run whose pod was killed for want of it gets more by
    itself; None: they may ask for any, and get no more by themselves, since nobody has said what the nodes can give."""
    priority_classes: tuple[str, ...] = ()
    """Priority classes that runs may name."""
    queues: tuple[str, ...] = ()
    """Queues of Kueue and Volcano that runs may name; `*`: any. A LocalQueue of Kueue is made by whoever rules the
    namespace; a Queue of Volcano is the whole cluster's."""
    queue_priority_classes: tuple[str, ...] = ()
    """Kueue's WorkloadPriorityClasses that runs may name."""
    sources: tuple[Literal["ModelScope", "HuggingFace", "Volume", "S3"], ...] = (
        "ModelScope",
        "HuggingFace",
        "Volume",
        "S3",
    )
    """Where models and datasets may come from: leave out what pods cannot reach, or shall not."""
    push_hubs: tuple[Literal["ModelScope", "HuggingFace"], ...] = ("ModelScope", "HuggingFace")
    """Where artifacts may be pushed to; empty: nowhere."""
    s3_endpoints: tuple[str, ...] = ()
    """Stores besides Amazon's that runs may name, such as https://minio.example:9000; `*`: any, which lets whoever
    may create a run send requests to every address that pods can reach."""


class Pricing(SettingsModel):
    """What GPU time costs; shown in status, and nothing is decided by it."""

    currency: str = Field(default="", max_length=16)
    """As it is written after a sum: EUR."""
    per_gpu_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """By GPU resource, such as nvidia.com/gpu; without an entry no price is shown."""


class LeaderElection(SettingsModel):
    """The Lease by which several operators agree on the one that acts."""

    namespace: str
    name: str
    lease_seconds: int = Field(default=15, ge=3, le=600)
    """A Lease that has not been renewed for so long is free: how long nobody acts after a leader died."""
    renew_seconds: int = Field(default=10, ge=2, le=600)
    """A leader that could not renew it for so long acts no more, and ends."""
    retry_seconds: int = Field(default=2, ge=1, le=60)
    """Between two looks at it, of leader and others alike."""

    @model_validator(mode="after")
    def _has_room(self) -> "LeaderElection":
        if not self.retry_seconds < self.renew_seconds < self.lease_seconds:
            raise ValueError("retrySeconds < renewSeconds < leaseSeconds must hold, else two could lead at once")
        return self


class Kueue(SettingsModel):
    """Kueue, where the cluster has it."""

    enabled: bool = False
    topology_aware: bool = False
    """Whether the queues' flavors have topologies: then Kueue places workers side by side, else the scheduler does."""


class Volcano(SettingsModel):
    """Volcano, where the cluster has it."""

    enabled: bool = False
    scheduler_name: str = "volcano"


class Coscheduling(SettingsModel):
    """A scheduler with the coscheduling plug-in, where the cluster has one."""

    enabled: bool = False
    scheduler_name: str = "scheduler-plugins-scheduler"


class Gangs(SettingsModel):
    """Which gang schedulers the cluster has; a run may ask for those alone."""

    kueue: Kueue = Kueue()
    volcano: Volcano = Volcano()
    coscheduling: Coscheduling = Coscheduling()


class Fabric(SettingsModel):
    """What the workers of a run get that names this profile: a network for collectives beside the pod network."""

    resources: dict[str, str] = Field(default_factory=dict)
    """Extended resources of every worker, such as `rdma/hca_shared_devices_a: "1"` or `vpc.amazonaws.com/efa: "4"`."""
    environment: dict[str, str] = Field(default_factory=dict)
    """NCCL_IB_HCA, NCCL_SOCKET_IFNAME, FI_PROVIDER and the like; they win over pods.environment."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Of the pods, such as k8s.v1.cni.cncf.io/networks for a secondary network."""
    host_network: bool = False
    """The node's own interfaces: such pods are past every network policy, and two never share a node."""
    ipc_lock: bool = False
    """Adds the capability IPC_LOCK, which Pod Security admits in privileged namespaces alone."""


class Settings(SettingsModel):
    """Everything the admin decides."""

    image: Image = Image()
    pods: Pods = Pods()
    limits: Limits = Limits()
    gangs: Gangs = Gangs()
    fabrics: dict[str, Fabric] = Field(default_factory=dict)
    """By the name that runs pick them by."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: all."""
    pricing: Pricing = Pricing()
    leader_election: LeaderElection | None = None
    """None: this operator is alone."""
    progress_interval_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    """How often rank 0 of a running attempt is asked, and at most how often its progress is written to status."""
    stale_after_seconds: Annotated[float, Field(gt=0, le=3600)] = 60
    """Progress older than this is marked stale."""
    resync_seconds: Annotated[float, Field(ge=5, le=3600)] = 60
    """Every unfinished run is looked at, and what the watches have missed is looked for, this often."""
    fencing_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 60
    """After a pod's own grace: how long until it is deleted by force so that the next attempt can start."""


def load_settings(path: Path) -> Settings:
    """The settings in the YAML file at `path`. Raises ValueError that names file, field and value."""
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text()) or {})
    except ValidationError as error:
        lines = (
            f"{path}: {'.'.join(map(str, item['loc']))}: {item['msg']}, and it is {item['input']!r}"
            for item in error.errors(include_url=False)
        )
        raise ValueError("\n".join(lines)) from None
