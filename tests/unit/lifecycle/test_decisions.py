"""What is true of a run, and what is done about it, moment by moment."""

import dataclasses
from typing import Any

import pytest

from finetune_contract import ExitCode, Stage
from finetune_operator.lifecycle import (
    ClearPreparation,
    Decision,
    DeleteRun,
    StartAttempt,
    StartPreparation,
    StopAttempt,
    decide_pass,
    known_facts,
    reopened,
    text,
)
from finetune_operator.observation import Attempt, ClaimState, Observation, WorkerState
from finetune_operator.planning import Plan, PlanError, make_plan
from finetune_operator.settings import Settings
from finetune_operator.status import Condition, ConditionType, Phase, Status
from support.runs import (
    START,
    attempt,
    checkpoint,
    done_outcome,
    failed_outcome,
    preempted_outcome,
    preparation,
    progress,
    run,
    there,
    worker,
)

WAITING, RUNNING = WorkerState.WAITING, WorkerState.RUNNING
FAILED, SUCCEEDED = WorkerState.FAILED, WorkerState.SUCCEEDED
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


# Ends


def test_a_disrupted_attempt_is_followed_by_another_at_no_cost() -> None:
    story = Story()
    story.see(trained(step=30, checkpoint=checkpoint(20)))
    lost = worker(1, FAILED, disruption="PreemptionByScheduler")
    decision = story.see(attempt(worker(0, FAILED, exit_code=1), lost, is_failed=True), after=5)
    record = story.status.attempts[0]
    assert (record.cause, record.decision, record.steps_lost) == ("Disruption", "RetryUncounted", 10)
    assert decision.actions == (StartAttempt(2),)
    assert (story.phase(), story.status.failures) == (Phase.RESTARTING, 0)
    assert there(story.status.progress).eta is None
    story.see(attempt(number=2), after=5)
    assert (story.phase(), story.status.restarts) == (Phase.STARTING, 1)


def test_the_other_workers_of_a_broken_gang_are_heard_out() -> None:
    story = Story()
    story.see(trained())
    killed = worker(0, FAILED, exit_code=137)
    decision = story.see(attempt(killed, worker(1)), after=5)
    assert decision.actions == ()
    assert (story.phase(), story.status.attempts[0].decision) == (Phase.RESTARTING, None)
    at_fault = worker(1, FAILED, outcome=failed_outcome(ExitCode.USER_ERROR, "BadRows"))
    story.see(attempt(killed, at_fault, is_failed=True), after=5)
    assert story.status.attempts[0].cause == "UserError"
    assert (story.phase(), there(story.status.failure).reason) == (Phase.FAILED, "BadRows")


def test_the_next_attempt_waits_until_no_worker_of_the_last_is_left() -> None:
    story = Story()
    story.see(trained())
    half_dead = attempt(worker(0, FAILED, exit_code=1), worker(1, is_terminating=True), is_failed=True)
    story.see(half_dead, after=5)
    decision = story.see(half_dead, after=15)
    assert story.status.attempts[0].decision == "Retry"
    assert decision.actions == (StopAttempt(1, force=True),)
    assert story.see(half_dead, after=15).actions == (StopAttempt(1, force=True),)
    assert story.see(after=15).actions == (StartAttempt(2),)


def test_a_gang_that_has_agreed_to_save_is_given_the_time_for_it() -> None:
    story = Story()
    story.see(trained())
    first = worker(0, FAILED, outcome=preempted_outcome(10))
    decision = story.see(attempt(first, worker(1)), after=5)
    assert story.see(attempt(first, worker(1)), after=60).actions == decision.actions == ()
    story.see(attempt(first, worker(1)), after=300)
    assert story.status.attempts[0].decision == "RetryUncounted"


def test_a_worker_that_a_dead_node_keeps_terminating_for_ever_is_removed_by_force() -> None:
    story = Story()
    story.see(trained())
    stuck = attempt(worker(0), worker(1, is_terminating=True, disruption="DeletionByTaintManager"))
    assert story.see(stuck, after=5).actions == ()
    decision = story.see(stuck, after=SETTINGS.pods.grace_seconds + SETTINGS.fencing_grace_seconds)
    assert decision.actions == (StopAttempt(1, force=True),)
    assert story.status.attempts[0].cause == "Disruption"


def test_counted_failures_end_with_the_budget() -> None:
    story = Story(recovery={"maxRestarts": 1})
    story.see(trained())
    crash = worker(0, FAILED, exit_code=1)
    assert story.see(attempt(crash, is_failed=True)).actions == (StartAttempt(2),)
    decision = story.see(attempt(crash, number=2, is_failed=True))
    assert decision.actions == ()
    assert story.phase() is Phase.FAILED
    assert there(story.status.failure).message.startswith(
        "attempt 2: failed 2 times with recovery.maxRestarts 1; last: "
    )


def test_an_attempt_without_progress_for_too_long_is_hung() -> None:
    story = Story(recovery={"hangTimeoutSeconds": 60})
    story.see(trained())
    story.see(trained(), after=60)
    assert story.phase() is Phase.RUNNING
    decision = story.see(trained(), after=1)
    assert decision.actions == (StopAttempt(1, force=True),)
    assert (story.status.attempts[0].cause, story.status.attempts[0].decision) == ("Hang", "Retry")


def test_time_in_the_queue_is_no_hang() -> None:
    story = Story(recovery={"hangTimeoutSeconds": 60})
    waiting = attempt(worker(0, WAITING), worker(1))
    story.see(waiting)
    story.see(waiting, after=3600)
    assert story.status.attempts[0].ended_at is None
    story.see(attempt())
    story.see(attempt(), after=61)
    assert story.status.attempts[0].cause == "Hang"
    assert "rank 0 has told of no progress in 1m" in there(story.status.attempts[0].message)


def test_a_run_that_its_queue_takes_back_queues_again_at_no_cost() -> None:
    story = Story()
    story.see(trained())
    evicted = attempt(num_nodes=2, workers=(), is_suspended_by_queue=True)
    decision = story.see(evicted, after=5)
    assert decision.actions == (StopAttempt(1, force=True),)
    assert (story.status.attempts[0].cause, story.status.attempts[0].decision) == ("Disruption", "RetryUncounted")
    assert story.see(after=5).actions == (StartAttempt(2),)


def test_workers_that_vanish_without_a_trace_count_as_failed() -> None:
    story = Story()
    story.see(trained())
    decision = story.see(after=5)
    assert decision.actions == (StartAttempt(2),)
    assert (story.status.attempts[0].reason, story.status.failures) == ("WorkersGone", 1)


def test_a_finished_run_keeps_what_it_left() -> None:
    story = Story()
    story.see(trained(step=90, stage=Stage.TRAINING))
    finished = attempt(worker(0, SUCCEEDED, outcome=done_outcome()), worker(1, SUCCEEDED))
    decision = story.see(finished, after=5)
    assert (story.phase(), decision.actions) == (Phase.SUCCEEDED, ())
    assert (story.status.final_loss, story.status.artifacts[0].kind) == ("1.2500", "Adapter")
    assert (there(story.status.progress).percent, there(story.status.progress).eta) == ("100%", None)
    assert decision.next_look_seconds is None


def test_workers_that_still_close_down_after_the_end_are_exporting() -> None:
    story = Story()
    story.see(trained(step=99))
    story.see(attempt(worker(0, SUCCEEDED, outcome=done_outcome()), worker(1)), after=5)
    assert story.phase() is Phase.EXPORTING


def test_finished_is_finished_even_when_everything_vanishes() -> None:
    story = Story()
    story.see(trained())
    story.see(attempt(worker(0, SUCCEEDED, outcome=done_outcome())), after=5)
    before = story.status
    decision = story.see(prepared=False, after=1000)
    assert (story.status, decision.actions) == (before, ())


def test_a_finished_run_goes_after_its_time() -> None:
    story = Story(scheduling={"ttlSecondsAfterFinished": 100})
    story.see(trained())
    decision = story.see(attempt(worker(0, SUCCEEDED, outcome=done_outcome())), after=5)
    assert decision.next_look_seconds == 100
    assert story.see(after=99).actions == ()
    assert story.see(after=1).actions == (DeleteRun(),)


def test_old_attempts_are_cleared_away_and_the_newest_kept_for_their_logs() -> None:
    story = Story()
    over = tuple(attempt(worker(0, FAILED, exit_code=75), number=n, is_failed=True) for n in (1, 2, 3))
    decision = story.see(*over)
    assert decision.actions == (StopAttempt(1, force=False), StartAttempt(4))


# Suspension


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


# Progress


def test_progress_never_falls_within_an_attempt() -> None:
    story = Story()
    story.see(trained(step=30, at=START + 100), after=100)
    story.see(trained(step=20, at=START + 200), after=100)
    assert there(story.status.progress).step == 30


def test_progress_is_written_at_most_once_in_its_interval() -> None:
    story = Story()
    story.see(trained(step=30))
    story.see(trained(step=31, at=START + 5), after=5)
    assert there(story.status.progress).step == 30
    story.see(trained(step=32, at=START + 10), after=5)
    assert there(story.status.progress).step == 32


def test_figures_of_a_silent_rank_are_marked_stale() -> None:
    story = Story()
    story.see(trained())
    silent = dataclasses.replace(trained(), progress=None, progress_seen_at=None)
    story.see(silent, after=60)
    assert not there(story.status.progress).stale
    story.see(silent, after=1)
    assert there(story.status.progress).stale
    assert story.phase() is Phase.RUNNING, "a missed answer is no end"


def test_conditions_keep_their_transition_time_while_their_status_stays() -> None:
    story = Story()
    story.see(trained())
    before = story.condition(ConditionType.RUNNING)
    story.see(trained(step=20, at=START + 60, stage=Stage.SAVING), after=60)
    now = story.condition(ConditionType.RUNNING)
    assert (now.reason, now.last_transition_time) == ("Saving", before.last_transition_time)


# Once more, at a person's wish


def test_a_failed_run_that_is_reopened_goes_on_with_a_fresh_budget() -> None:
    story = Story(recovery={"maxRestarts": 0})
    story.see(trained(checkpoint=checkpoint(10)))
    story.see(attempt(worker(0, FAILED, exit_code=1), is_failed=True))
    assert story.phase() is Phase.FAILED
    story.status = reopened(story.status)
    assert story.see().actions == (StartAttempt(2),)
    assert there(story.status.checkpoint).step == 10


def test_a_finished_run_cannot_be_reopened() -> None:
    story = Story()
    story.see(trained())
    story.see(attempt(worker(0, SUCCEEDED, outcome=done_outcome())), after=5)
    assert reopened(story.status) == story.status
