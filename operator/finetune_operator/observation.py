"""What a backend saw of a run, in the domain's words: no client's types, no clock."""

from dataclasses import dataclass
from enum import StrEnum

from finetune_contract import Outcome, PrepareOutcome, Progress, PushOutcome


class WorkerState(StrEnum):
    """Where one worker (a pod, or a process group on a laptop) is."""

    WAITING = "Waiting"
    """Made, but its container has not started."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One node's worth of ranks."""

    index: int
    """Node rank."""
    name: str
    state: WorkerState
    is_terminating: bool = False
    """Asked to stop, and still there."""
    node: str | None = None
    waiting_reason: str | None = None
    """`Unschedulable`, `ImagePullBackOff`, `CreateContainerConfigError`, `ContainerCreating`."""
    waiting_message: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    """Kubernetes' own word for the end: `OOMKilled`, `Evicted`, `Error`."""
    message: str | None = None
    disruption: str | None = None
    """Reason of the DisruptionTarget condition, if it is true: `PreemptionByScheduler`, `TerminationByKubelet`."""
    outcome: Outcome | None = None
    """What the trainer wrote when it ended, if it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt's workers, all of the same number."""

    number: int
    workers: tuple[Worker, ...] = ()
    num_nodes: int
    created_at: float
    """Unix seconds."""
    is_being_deleted: bool = False
    is_suspended_by_queue: bool = False
    """A queue (Kueue) holds the Job back."""
    is_failed: bool = False
    """The Job controller has given the Job up, whatever its pods still say."""
    job_message: str | None = None
    """Why the Job has no pods, or what the Job controller said last: `exceeded quota`."""
    progress: Progress | None = None
    """Rank 0's newest answer, if it could be had."""
    progress_seen_at: float | None = None
    """When it was had, unix seconds by the operator's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuWork:
    """Work of a single pod without a GPU, or of a process that stands for one."""

    state: WorkerState
    created_at: float
    """Unix seconds; tells one try from the next."""
    is_being_deleted: bool = False
    waiting_reason: str | None = None
    waiting_message: str | None = None
    """Why its container has not started, or why there is no pod."""
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None
    disruption: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation(CpuWork):
    """The CPU-only preparation."""

    outcome: PrepareOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Push(CpuWork):
    """A push of a finished run's artifacts."""

    number: int
    target: str
    """What it was told to push and where, see `planning.push_target`."""
    request: str
    """Key of all that it was told, see `planning.push_request`."""
    outcome: PushOutcome | None = None

    @property
    def is_alive(self) -> bool:
        """Whether its process runs, or may still start."""
        return self.state in (WorkerState.WAITING, WorkerState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimState:
    """A volume claim that the run needs."""

    name: str
    is_bound: bool
    message: str | None = None
    """Why not, if anybody said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything of a run that exists now. Absent things are absent: nothing is remembered here."""

    preparation: Preparation | None = None
    attempts: tuple[Attempt, ...] = ()
    """Every attempt of which anything is left, oldest first."""
    push: Push | None = None
    """The newest one of which anything is left."""
    unbound_claims: tuple[ClaimState, ...] = ()
    missing_claims: tuple[str, ...] = ()
    """Claims that the spec names and that do not exist."""
    taken_name: str | None = None
    """What is in the way of the run's own object of that name, in words; None: nothing was, the last time."""
    output_claim: str | None = None
    """The claim that the run's outputs lie on; None on a laptop."""
    gpu_memory_bytes: int | None = None
    """Of one GPU of the resource that the run asks for, by the smallest node; None: not known."""

    @property
    def current(self) -> Attempt | None:
        """The newest attempt of which anything is left."""
        return self.attempts[-1] if self.attempts else None
