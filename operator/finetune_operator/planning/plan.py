"""The plan of a run: how its batch, memory and GPUs come together."""

from dataclasses import dataclass

from finetune_contract import ActivationCheckpointing, BatchConfig, DatasetReport, ModelFacts, Parallelism
from finetune_operator.resource import Qwen3FineTune


class PlanError(ValueError):
    """The run cannot work as written; `reason` is CamelCase for conditions, the text says what would work."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """Where the trainer finds and leaves things, as absolute paths in its own file system."""

    cache_dir: str
    inputs_dir: str
    """Volume sources are paths below this."""
    output_dir: str
    """The run's own folder."""
    progress_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One component of the memory estimate, per GPU."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was worked out."""

    nodes: int
    gpus_per_node: int
    parallelism: Parallelism
    batch: BatchConfig
    activation_checkpointing: ActivationCheckpointing
    memory: tuple[MemoryLine, ...]
    gpu_memory_bytes: int | None
    """None: not known, so fit was not checked."""
    total_steps: int | None
    """None: the dataset is not known yet."""
    is_final: bool
    """Whether the dataset's real lengths went in."""


def make_plan(
    run: Qwen3FineTune,
    *,
    model: ModelFacts | None,
    dataset: DatasetReport | None,
    gpu_memory_bytes: int | None,
) -> Plan:
    """The plan for `run`. Raises PlanError when nothing the user allows can work."""
    raise PlanError("NotWritten", f"{run.metadata.name}: {model} {dataset} {gpu_memory_bytes}")
