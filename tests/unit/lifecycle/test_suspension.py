"""A run that its user suspends, and one that goes on."""

import dataclasses

from finetune_operator.lifecycle import (
    ClearPreparation,
    StartAttempt,
    StopAttempt,
)
from finetune_operator.observation import WorkerState
from finetune_operator.status import ConditionType, Phase
from support.runs import (
    attempt,
    done_outcome,
    preempted_outcome,
    preparation,
    there,
    worker,
)
from unit.lifecycle.story import SETTINGS, Story, trained

RUNNING = WorkerState.RUNNING
FAILED, SUCCEEDED = WorkerState.FAILED, WorkerState.SUCCEEDED


def test_suspending_saves_and_stops() -> None:
    story = Story()
    story.see(trained(step=30))
    story.change(suspend=True)
    decision = story.see(trained(step=30), after=5)
    assert decision.actions == (StopAttempt(1, force=False),)
    assert (story.phase(), story.reason(ConditionType.RUNNING)) == (Phase.RUNNING, "Stopping")
    saved = worker(0, FAILED, outcome=preempted_outcome(31))
    story.see(attempt(saved, worker(1, is_terminating=True), is_being_deleted=True), after=5)
    decision = story.see(after=5)
    assert (story.phase(), decision.actions) == (Phase.SUSPENDED, ())
    record = story.status.attempts[0]
    assert (record.cause, record.decision, record.steps_lost) == ("Suspended", "Suspend", 0)
    progress = there(story.status.progress)  # the last step came after the last poll, and is shown all the same
    assert (progress.step, progress.percent, progress.loss, progress.eta) == (31, "31%", "0.0323", None)
    story.change()
    assert story.see(after=5).actions == (StartAttempt(2),)
    assert story.phase() is Phase.STARTING
    assert story.events[-3:] == ["AttemptEnded", "Suspended", "Resumed"]
    assert story.status.failures == 0


def test_workers_that_do_not_stop_in_time_are_removed() -> None:
    story = Story()
    story.see(trained())
    story.change(suspend=True)
    stuck = dataclasses.replace(trained(), is_being_deleted=True)
    story.see(trained())
    late = SETTINGS.pods.grace_seconds + SETTINGS.fencing_grace_seconds
    assert story.see(stuck, after=late).actions == (StopAttempt(1, force=True),)
    assert story.phase() is not Phase.SUSPENDED
    story.see(after=5)
    assert story.phase() is Phase.SUSPENDED


def test_a_run_that_ends_while_it_is_told_to_stop_has_ended() -> None:
    story = Story()
    story.see(trained())
    story.change(suspend=True)
    story.see(trained())
    story.see(attempt(worker(0, SUCCEEDED, outcome=done_outcome()), worker(1, SUCCEEDED)), after=5)
    assert story.phase() is Phase.SUCCEEDED


def test_a_run_that_is_born_suspended_makes_nothing() -> None:
    story = Story(suspend=True)
    decision = story.see(prepared=False)
    assert (decision.actions, story.phase()) == ((), Phase.SUSPENDED)
    assert story.status.start_time is None


def test_suspending_ends_a_preparation() -> None:
    story = Story(suspend=True)
    assert story.see(preparation=preparation(RUNNING)).actions == (ClearPreparation(),)
    story.see(prepared=False)
    assert story.phase() is Phase.SUSPENDED
