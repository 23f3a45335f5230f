"""From a new run to its first step, and what it waits for on the way."""

import pytest

from finetune_contract import Stage
from finetune_operator.lifecycle import (
    ClearPreparation,
    StartAttempt,
    StartPreparation,
    StopAttempt,
    text,
)
from finetune_operator.observation import ClaimState, WorkerState
from finetune_operator.status import ConditionType, Phase
from support.runs import (
    START,
    attempt,
    preparation,
    there,
    worker,
)
from unit.lifecycle.story import SETTINGS, Story, trained

WAITING, RUNNING = WorkerState.WAITING, WorkerState.RUNNING


# The way to the first step


def test_a_new_run_is_planned_and_its_preparation_started() -> None:
    story = Story()
    decision = story.see(prepared=False)
    assert decision.actions == (StartPreparation(),)
    assert story.phase() is Phase.PREPARING
    assert story.status.start_time == text.timestamp(START)
    assert there(story.status.plan).gpus == 2
    assert story.events == ["Planned"]


def test_a_prepared_run_gets_its_first_attempt() -> None:
    story = Story()
    story.see(prepared=False)
    decision = story.see()
    assert decision.actions == (StartAttempt(1),)
    assert story.phase() is Phase.STARTING
    assert there(story.status.plan).final
    assert there(story.status.dataset).rows == 3729


def test_it_runs_once_a_step_is_done_and_not_before() -> None:
    story = Story()
    story.see()
    story.see(attempt(worker(0, WAITING), worker(1, RUNNING)))
    assert story.phase() is Phase.STARTING
    story.see(attempt())
    assert story.phase() is Phase.STARTING
    story.see(trained(step=0, stage=Stage.LOADING))
    assert story.phase() is Phase.STARTING
    story.see(trained(step=1, at=START + 20), after=20)
    assert story.phase() is Phase.RUNNING
    assert story.reason(ConditionType.RUNNING) == "Training"
    assert (there(story.status.progress).percent, there(story.status.progress).loss) == ("1%", "2.0000")
    assert (there(story.status.progress).eta, there(story.status.progress).tokens_per_second) == ("1h12m", 1000)


def test_rank_0_is_asked_often_and_a_queued_run_seldom() -> None:
    story = Story()
    assert story.see().next_look_seconds == SETTINGS.resync_seconds
    waiting = attempt(worker(0, WAITING, waiting_reason="Unschedulable"), worker(1, WAITING))
    assert story.see(waiting).next_look_seconds == SETTINGS.resync_seconds
    assert story.see(trained()).next_look_seconds == SETTINGS.progress_interval_seconds


def test_a_resumed_attempt_runs_only_when_it_has_done_a_step_of_its_own() -> None:
    story = Story()
    story.see(trained(number=2, step=50, resumed_from_step=50))
    assert story.phase() is Phase.STARTING
    story.see(trained(number=2, step=51, resumed_from_step=50, at=START + 20), after=20)
    assert story.phase() is Phase.RUNNING


def test_exporting_has_a_phase_of_its_own() -> None:
    story = Story()
    story.see(trained(step=100, stage=Stage.EXPORTING))
    assert story.phase() is Phase.EXPORTING


# Waiting is told truthfully, and uses up nothing


@pytest.mark.parametrize(
    ("waiting", "phase", "reason", "words"),
    [
        (
            {"waiting_reason": "Unschedulable", "waiting_message": "0/3 nodes: 3 Insufficient nvidia.com/gpu"},
            Phase.QUEUED,
            "Unschedulable",
            "3 Insufficient",
        ),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "hub" not found'},
            Phase.STARTING,
            "SecretNotFound",
            "spec.model.tokenSecret: there is no Secret hub in namespace research",
        ),
        (
            {
                "waiting_reason": "CreateContainerConfigError",
                "waiting_message": "couldn't find key token in Secret research/hub",
            },
            Phase.STARTING,
            "SecretKeyNotFound",
            "the Secret hub has no key token",
        ),
        (
            {"waiting_reason": "ImagePullBackOff", "waiting_message": "back-off pulling image"},
            Phase.STARTING,
            "ImagePullBackOff",
            "worker 1: back-off pulling image",
        ),
        ({"waiting_reason": "ContainerCreating"}, Phase.STARTING, "Starting", "waits for its workers"),
        (
            {"waiting_reason": "ContainerCreating", "waiting_message": "FailedMount: read-only file system"},
            Phase.STARTING,
            "ContainerCreating",
            "worker 1: FailedMount: read-only file system",
        ),
    ],
)
def test_what_workers_wait_for_is_told(waiting: dict[str, str], phase: Phase, reason: str, words: str) -> None:
    story = Story()
    decision = story.see(attempt(worker(0), worker(1, WAITING, **waiting)))
    condition = story.condition(ConditionType.RUNNING)
    assert (story.phase(), condition.reason) == (phase, reason)
    assert words in condition.message
    assert decision.actions == ()
    assert story.status.attempts[0].ended_at is None


def test_a_missing_thing_is_told_before_a_lack_of_room() -> None:
    story = Story()
    no_room = worker(0, WAITING, waiting_reason="Unschedulable", waiting_message="0/3 nodes")
    no_secret = worker(
        1, WAITING, waiting_reason="CreateContainerConfigError", waiting_message='secret "hub" not found'
    )
    story.see(attempt(no_room, no_secret))
    assert story.reason(ConditionType.RUNNING) == "SecretNotFound"


def test_a_queue_that_holds_the_run_back_is_told() -> None:
    story = Story()
    story.see(attempt(num_nodes=2, is_suspended_by_queue=True, workers=()))
    assert story.phase() is Phase.QUEUED


def test_a_quota_that_lets_no_pod_be_made_is_told() -> None:
    story = Story()
    story.see(attempt(num_nodes=2, workers=(), job_message="pods is forbidden: exceeded quota: gpus"))
    assert (story.phase(), story.reason(ConditionType.RUNNING)) == (Phase.QUEUED, "QuotaExceeded")


def test_what_the_preparation_waits_for_is_told() -> None:
    story = Story()
    waiting = preparation(WAITING, waiting_reason="Unschedulable", waiting_message="0/3 nodes")
    story.see(preparation=waiting, missing_claims=("inputs",))
    assert story.reason(ConditionType.PREPARED) == "ClaimNotFound"
    pending = ClaimState(name="huanhuan-cache", is_bound=False, message="storageclass fast not found")
    story.see(preparation=waiting, unbound_claims=(pending,))
    assert story.reason(ConditionType.PREPARED) == "VolumePending"
    story.see(preparation=waiting)
    assert story.reason(ConditionType.PREPARED) == "Unschedulable"
    story.see(preparation=preparation(WAITING, waiting_message="pods is forbidden: exceeded quota: pods"))
    assert story.reason(ConditionType.PREPARED) == "QuotaExceeded"
    story.see(preparation=preparation(WAITING, waiting_message="admission webhook denied the request"))
    assert story.reason(ConditionType.PREPARED) == "PodNotCreated"
    assert story.phase() is Phase.PREPARING


def test_a_name_that_is_taken_is_told_until_it_is_free() -> None:
    story = Story()
    story.see(prepared=False)
    story.see(prepared=False, taken_name="there is a Job huanhuan-prepare that belongs to no run")
    assert (story.phase(), story.reason(ConditionType.PREPARED)) == (Phase.PREPARING, "NameTaken")
    story.see(taken_name="there is a Job huanhuan-r1 that belongs to no run")
    assert (story.phase(), story.reason(ConditionType.RUNNING)) == (Phase.STARTING, "NameTaken")
    assert "there is a Job huanhuan-r1" in story.condition(ConditionType.RUNNING).message
    story.see()
    assert story.reason(ConditionType.RUNNING) == "Starting"


def test_the_deadline_ends_the_wait() -> None:
    story = Story(scheduling={"preRunningDeadlineSeconds": 600})
    story.see()
    waiting = attempt(worker(0, WAITING, waiting_reason="Unschedulable", waiting_message="0/3 nodes"), worker(1))
    story.see(waiting, after=599)
    assert story.phase() is Phase.QUEUED
    decision = story.see(waiting, after=1)
    assert (story.phase(), there(story.status.failure).reason) == (Phase.FAILED, "DeadlineExceeded")
    assert decision.actions == (StopAttempt(1, force=True),)


def test_the_deadline_ends_a_preparation_that_cannot_start() -> None:
    story = Story(scheduling={"preRunningDeadlineSeconds": 600})
    story.see(prepared=False)
    decision = story.see(preparation=preparation(WAITING, waiting_reason="ImagePullBackOff"), after=600)
    assert decision.actions == (ClearPreparation(),)
    assert story.phase() is Phase.FAILED


def test_the_deadline_does_not_count_time_in_suspension() -> None:
    story = Story(scheduling={"preRunningDeadlineSeconds": 600}, suspend=True)
    story.see(prepared=False)
    story.change(scheduling={"preRunningDeadlineSeconds": 600})
    story.see(prepared=False, after=1000)
    assert story.status.suspended_seconds == 1000
    assert story.phase() is Phase.PREPARING
    story.see(prepared=False, after=600)
    assert story.phase() is Phase.FAILED


def test_after_the_first_step_the_deadline_is_over() -> None:
    story = Story(scheduling={"preRunningDeadlineSeconds": 600})
    story.see(trained())
    story.see(trained(at=START + 700), after=700)
    assert story.phase() is Phase.RUNNING
