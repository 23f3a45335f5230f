"""The status of a run: what its blocks are called in the resource, and what they promise."""

from finetune_operator.status.attempts import AttemptStatus, FailureStatus
from finetune_operator.status.base import MAX_ATTEMPTS, Line, Message, StatusModel, Timestamp
from finetune_operator.status.conditions import TERMINAL_PHASES, Condition, ConditionStatus, ConditionType, Phase
from finetune_operator.status.cost import CostStatus, EarlierCostStatus
from finetune_operator.status.plan import BatchStageStatus, MemoryComponent, PlanStatus
from finetune_operator.status.preparation import (
    DatasetStatus,
    LengthBinStatus,
    ModelStatus,
    PreparationFailureStatus,
    PreparationStatus,
    SourceStatus,
)
from finetune_operator.status.progress import AlarmStatus, CheckpointStatus, ProgressStatus, TrackerStatus
from finetune_operator.status.reading import read_status
from finetune_operator.status.recovery import MAX_REMEDIES, PinnedStatus, RecoveryStatus, RemedyStatus
from finetune_operator.status.results import ArtifactStatus, PushedStatus, PushStatus
from finetune_operator.status.status import Status

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_REMEDIES",
    "TERMINAL_PHASES",
    "AlarmStatus",
    "ArtifactStatus",
    "AttemptStatus",
    "BatchStageStatus",
    "CheckpointStatus",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "CostStatus",
    "DatasetStatus",
    "EarlierCostStatus",
    "FailureStatus",
    "LengthBinStatus",
    "Line",
    "MemoryComponent",
    "Message",
    "ModelStatus",
    "Phase",
    "PinnedStatus",
    "PlanStatus",
    "PreparationFailureStatus",
    "PreparationStatus",
    "ProgressStatus",
    "PushStatus",
    "PushedStatus",
    "RecoveryStatus",
    "RemedyStatus",
    "SourceStatus",
    "Status",
    "StatusModel",
    "Timestamp",
    "TrackerStatus",
    "read_status",
]
