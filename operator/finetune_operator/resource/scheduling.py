"""Where and when the pods run: queues and gangs, priorities, nodes, and how long all of it may take."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from finetune_operator.resource.base import LabelKey, LabelValue, Name, ResourceModel, Rule, Text


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


class Gang(StrEnum):
    """Who sees to it that the workers of a run get room all at once, or not at all."""

    NONE = "None"
    """Nobody: Kubernetes' scheduler places each worker by itself."""
    KUEUE = "Kueue"
    VOLCANO = "Volcano"
    COSCHEDULING = "Coscheduling"


class TopologyMode(StrEnum):
    """What becomes of workers for which there is no room side by side."""

    REQUIRED = "Required"
    """They wait."""
    PREFERRED = "Preferred"
    """They are spread."""


class TopologyHint(ResourceModel):
    """The workers of an attempt stand close to one another."""

    key: LabelKey
    """Label of nodes: those with the same value are close, such as topology.kubernetes.io/zone or a rack's label."""
    mode: TopologyMode = TopologyMode.PREFERRED


QueueName = Annotated[
    str, Text(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", 63, "a queue's name: lower-case letters, digits and - inside")
]

_QUEUE_WITHOUT_GANG = "a queue goes with gang Kueue or Volcano, and gang is {gang}: change one of them"
_KUEUE_WITHOUT_QUEUE = "gang Kueue admits a run through a queue: name a LocalQueue of the run's namespace in queue"
_PRIORITY_WITHOUT_KUEUE = "queuePriorityClass is a WorkloadPriorityClass of gang Kueue, and gang is {gang}"


class Scheduling(ResourceModel):
    """Where and when the pods run."""

    gang: Gang = Gang.NONE
    queue: QueueName | None = None
    """Kueue's LocalQueue in the run's namespace, or Volcano's Queue; one of those that the operator's admin allows."""
    queue_priority_class: Name | None = None
    """Kueue's WorkloadPriorityClass: decides the place in the queue, and leaves the pods' priority alone."""
    priority_class: Name | None = None
    """PriorityClass of the pods; one of those that the operator's admin allows."""
    topology: TopologyHint | None = None
    """Default: workers go wherever there is room."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: Annotated[tuple["Toleration", ...], Field(max_length=16)] = ()
    """Taints that the training pods may sit beside."""
    pre_running_deadline_seconds: int | None = Field(default=None, ge=60, le=2_592_000)
    """Give up when no step was done this long after the run was created (suspended time not counted)."""
    active_deadline_seconds: int | None = Field(default=None, ge=60, le=31_536_000)
    """Save, stop and give up when workers have run for so long, all attempts together (waiting time not counted)."""
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    """Delete the finished resource after this long; default: keep it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.queue) || self.gang == 'Kueue' || self.gang == 'Volcano'",
            _QUEUE_WITHOUT_GANG.format(gang="{self.gang}"),
            ".queue",
        ),
        Rule("has(self.queue) || self.gang != 'Kueue'", _KUEUE_WITHOUT_QUEUE, ".queue"),
        Rule(
            "!has(self.queuePriorityClass) || self.gang == 'Kueue'",
            _PRIORITY_WITHOUT_KUEUE.format(gang="{self.gang}"),
            ".queuePriorityClass",
        ),
    )

    @model_validator(mode="after")
    def _gang_fits(self) -> Self:
        if self.queue is not None and self.gang not in (Gang.KUEUE, Gang.VOLCANO):
            raise ValueError(_QUEUE_WITHOUT_GANG.format(gang=self.gang))
        if self.queue is None and self.gang is Gang.KUEUE:
            raise ValueError(_KUEUE_WITHOUT_QUEUE)
        if self.queue_priority_class is not None and self.gang is not Gang.KUEUE:
            raise ValueError(_PRIORITY_WITHOUT_KUEUE.format(gang=self.gang))
        return self
