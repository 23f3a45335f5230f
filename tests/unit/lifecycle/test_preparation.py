"""The preparation, and the plan that rests on it."""

import dataclasses

from finetune_contract import ExitCode
from finetune_operator.lifecycle import (
    ClearPreparation,
    StartAttempt,
    StartPreparation,
)
from finetune_operator.observation import WorkerState
from finetune_operator.planning import PlanError
from finetune_operator.status import ConditionType, Phase
from support.runs import (
    START,
    failed_outcome,
    preparation,
    there,
)
from unit.lifecycle.story import Story, trained

FAILED = WorkerState.FAILED


# Preparation


def test_bad_data_is_refused_before_a_gpu_is_asked_for() -> None:
    story = Story()
    told = failed_outcome(ExitCode.USER_ERROR, "BadRows", details=("line 7: no answer",))
    outcome = {"exit_code": told.exit_code, "failure": told.failure}
    bad = dataclasses.replace(
        preparation(FAILED), outcome=there(preparation().outcome).model_validate(outcome), exit_code=64
    )
    decision = story.see(preparation=bad)
    assert (story.phase(), there(story.status.failure).reason, decision.actions) == (Phase.FAILED, "BadRows", ())
    assert "line 7: no answer" in story.condition(ConditionType.PREPARED).message


def test_a_disrupted_preparation_is_made_again() -> None:
    story = Story()
    lost = preparation(FAILED, exit_code=143, disruption="EvictionByEvictionAPI")
    assert story.see(preparation=lost).actions == (ClearPreparation(),)
    assert story.see(prepared=False).actions == (StartPreparation(),)
    assert story.phase() is Phase.PREPARING
    assert len(story.status.preparation_failures) == 1


def test_a_preparation_fails_for_good_after_as_many_tries_as_the_budget_says() -> None:
    story = Story(recovery={"maxRestarts": 1})
    story.see(preparation=preparation(FAILED, exit_code=1))
    story.see(preparation=preparation(FAILED, exit_code=1, created_at=START + 60), after=60)
    assert story.phase() is Phase.FAILED


def test_mode_plan_prepares_and_takes_no_gpu() -> None:
    story = Story(mode="Plan")
    assert story.see(prepared=False).actions == (StartPreparation(),)
    decision = story.see()
    assert (story.phase(), decision.actions) == (Phase.SUCCEEDED, ())
    assert story.reason(ConditionType.SUCCEEDED) == "PlanReady"
    assert there(story.status.plan).final


def test_a_planned_run_whose_mode_becomes_run_goes_on() -> None:
    story = Story(mode="Plan")
    story.see(prepared=False)
    story.see()
    story.change(mode="Run")
    assert story.see().actions == (StartAttempt(1),)
    assert story.phase() is Phase.STARTING


# Plans


REFUSED = PlanError("DoesNotFit", "needs 95 GiB of 80 GiB")


def test_a_plan_that_does_not_fit_is_refused_and_a_new_generation_planned_afresh() -> None:
    story = Story()
    decision = story.see(prepared=False, plan=REFUSED)
    assert (story.phase(), decision.actions) == (Phase.FAILED, ())
    assert story.reason(ConditionType.PLANNED) == "DoesNotFit"
    assert story.events == ["PlanRefused", "Failed"]
    story.see(prepared=False)
    assert story.phase() is Phase.FAILED, "the same generation stays refused"
    story.change()
    assert story.see(prepared=False).actions == (StartPreparation(),)
    assert story.status.failure is None


def test_a_plan_that_real_lengths_refuse_ends_the_run() -> None:
    story = Story()
    story.see(prepared=False)
    story.see(plan=REFUSED)
    assert story.phase() is Phase.FAILED
    story.change()
    story.see()
    assert story.phase() is Phase.FAILED


def test_a_running_attempt_outlives_a_plan_that_would_be_refused_today() -> None:
    story = Story()
    story.see(trained())
    plan = story.status.plan
    story.see(trained(), plan=REFUSED)
    assert (story.phase(), story.status.plan) == (Phase.RUNNING, plan)
