"""A run that is looked at again and again, each pass checked for what every pass promises."""

from typing import Any

from finetune_operator.lifecycle import (
    Decision,
    Planning,
    decide_pass,
    known_facts,
)
from finetune_operator.observation import Attempt, Observation
from finetune_operator.planning import Plan, PlanError, make_plan
from finetune_operator.settings import Settings
from finetune_operator.status import Condition, ConditionType, Phase, RecoveryStatus, Status
from support.runs import (
    START,
    attempt,
    preparation,
    progress,
    run,
)

SETTINGS = Settings()


class Story:
    """A run that is looked at again and again; `see` is one pass."""

    def __init__(self, **spec: Any) -> None:
        self.run = run(**spec)
        self.status = Status()
        self.settings = SETTINGS
        self.now = START
        self.events: list[str] = []
        """Reasons."""
        self.told: list[str] = []
        """Messages of the same."""

    def see(
        self,
        *attempts: Attempt,
        after: float = 0.0,
        plan: Plan | PlanError | None = None,
        prepared: bool = True,
        **observed: Any,
    ) -> Decision:
        """One pass; the preparation is there and done, unless told otherwise."""
        self.now += after
        if prepared and "preparation" not in observed:
            observed["preparation"] = preparation()
        observation = Observation(attempts=attempts, **observed)
        planning = self._planning(observation) if plan is None else lambda _: plan
        decision = decide_pass(self.run, self.status, observation, planning, self.settings, self.now)
        again = decide_pass(self.run, decision.status, observation, planning, self.settings, self.now)
        assert again.status == decision.status, "a second pass has nothing to write"
        assert again.actions == decision.actions, "a second pass wants the same acts"
        assert again.events == (), "a fact is told once"
        self.status = decision.status
        self.events += [event.reason for event in decision.events]
        self.told += [event.message for event in decision.events]
        return decision

    def _planning(self, observation: Observation) -> Planning:
        model, dataset = known_facts(self.status, observation.preparation)

        def plan(recovery: RecoveryStatus | None) -> Plan | PlanError:
            try:
                return make_plan(self.run, model=model, dataset=dataset, gpu_memory_bytes=None, recovery=recovery)
            except PlanError as error:
                return error

        return plan

    def change(self, **spec: Any) -> None:
        """The user edits the spec."""
        new = run(generation=self.run.metadata.generation + 1, **spec)
        self.run = new.model_copy(update={"metadata": new.metadata})

    def phase(self) -> Phase:
        """Where the run is now. A call, so that a type checker takes no earlier answer for this one."""
        return self.status.phase

    def condition(self, type_: ConditionType) -> Condition:
        return next(condition for condition in self.status.conditions if condition.type is type_)

    def reason(self, type_: ConditionType) -> str:
        return self.condition(type_).reason


def trained(number: int = 1, step: int = 10, *, at: float = START, **fields: Any) -> Attempt:
    """A healthy attempt that has done `step` steps."""
    said = progress(number, step, at=at, **fields)
    return attempt(number=number, progress=said, progress_seen_at=at)
