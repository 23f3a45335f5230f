"""A run that is looked at again and again, each pass checked for what every pass promises."""

from typing import Any

from finetune_operator.lifecycle import (
    Decision,
    decide_pass,
    known_facts,
)
from finetune_operator.observation import Attempt, Observation
from finetune_operator.planning import Plan, PlanError, make_plan
from finetune_operator.settings import Settings
from finetune_operator.status import Condition, ConditionType, Phase, Status
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
        self.now = START
        self.events: list[str] = []

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
        if plan is None:
            model, dataset = known_facts(self.status, observation.preparation)
            plan = make_plan(self.run, model=model, dataset=dataset, gpu_memory_bytes=None)
        decision = decide_pass(self.run, self.status, observation, lambda: plan, SETTINGS, self.now)
        again = decide_pass(self.run, decision.status, observation, lambda: plan, SETTINGS, self.now)
        assert again.status == decision.status, "a second pass has nothing to write"
        assert again.actions == decision.actions, "a second pass wants the same acts"
        assert again.events == (), "a fact is told once"
        self.status = decision.status
        self.events += [event.reason for event in decision.events]
        return decision

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
