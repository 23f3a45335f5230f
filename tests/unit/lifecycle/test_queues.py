"""A run in a queue: why it waits and where it stands, and what becomes of it when the queue takes its place back."""

import dataclasses
from typing import Any

from finetune_contract import ExitCode
from finetune_operator.lifecycle import StartAttempt, StopAttempt
from finetune_operator.observation import Attempt, QueuePlace, WorkerState
from finetune_operator.status import ConditionType, Phase
from support.runs import (
    START,
    attempt,
    checkpoint,
    done_outcome,
    failed_outcome,
    preempted_outcome,
    there,
    worker,
)
from unit.lifecycle.story import SETTINGS, Story, trained

WAITING, RUNNING = WorkerState.WAITING, WorkerState.RUNNING
FAILED, SUCCEEDED = WorkerState.FAILED, WorkerState.SUCCEEDED
QUEUED: dict[str, Any] = {"scheduling": {"gang": "Kueue", "queue": "research"}}
PREEMPTED = QueuePlace(queue="research", reason="Preempted", message="to accommodate a workload of higher priority")


def held(position: int | None = 3, message: str = "2 more nvidia.com/gpu needed", **fields: Any) -> Attempt:
    """An attempt that Kueue has not let go."""
    place = QueuePlace(queue="research", position=position, reason="Pending", message=message)
    return dataclasses.replace(attempt(num_nodes=2, is_suspended_by_queue=True, place=place), workers=(), **fields)


def taken_back(of: Attempt, *workers: Any, **fields: Any) -> Attempt:
    """The same attempt, after the queue has suspended its Job again."""
    return dataclasses.replace(of, workers=workers, is_suspended_by_queue=True, place=PREEMPTED, **fields)


def leaving(index: int) -> Any:
    return worker(index, RUNNING, is_terminating=True)


# Waiting


def test_why_a_run_waits_and_where_it_stands_is_told_and_uses_up_nothing() -> None:
    story = Story(**QUEUED)
    decision = story.see(held())
    condition = story.condition(ConditionType.RUNNING)
    assert (story.phase(), condition.reason) == (Phase.QUEUED, "Queued")
    assert condition.message == "waits in queue research, place 3 in line: 2 more nvidia.com/gpu needed"
    assert (story.status.queue, decision.actions) == ("research #3", ())
    story.see(held(position=1), after=600)
    assert story.status.queue == "research #1"
    assert (story.status.attempts[0].ended_at, story.status.active_seconds) == (None, 0)
    story.see(held(position=None))
    assert story.status.queue == "research"
    assert story.condition(ConditionType.RUNNING).message.startswith("waits in queue research: 2 more")


def test_a_run_that_names_no_queue_says_so() -> None:
    story = Story()
    story.see(trained())
    assert story.status.queue == "none"


def test_a_run_that_was_let_go_stands_in_no_line() -> None:
    story = Story(**QUEUED)
    story.see(held())
    story.see(trained())
    assert (story.status.queue, story.phase()) == ("research", Phase.RUNNING)


def test_the_longer_a_run_waits_the_more_seldom_its_place_is_asked_for() -> None:
    story = Story(**QUEUED)
    looks = [story.see(held(), after=seconds).next_look_seconds for seconds in (0, 20, 60, 3600)]
    assert looks == [1, 5, 20, SETTINGS.resync_seconds]


def test_a_job_that_a_person_suspended_is_told_as_that() -> None:
    story = Story()
    story.see(attempt(worker(0, WAITING), worker(1, WAITING), is_suspended_by_queue=True))
    assert "somebody has suspended the Job of attempt 1" in story.condition(ConditionType.RUNNING).message


def test_a_queued_run_that_is_suspended_leaves_the_queue() -> None:
    story = Story(**QUEUED)
    story.see(held())
    story.change(**QUEUED, suspend=True)
    assert story.see(held()).actions == (StopAttempt(1, force=False),)
    story.see(held(is_being_deleted=True))
    assert story.see(after=5).actions == ()
    assert story.phase() is Phase.SUSPENDED
    story.change(**QUEUED)
    assert story.see(after=5).actions == (StartAttempt(2),)
    assert story.status.failures == 0


# Eviction


def test_a_run_that_is_preempted_saves_and_queues_again_at_no_cost() -> None:
    story = Story(**QUEUED, recovery={"maxRestarts": 0})
    running = trained(step=30, checkpoint=checkpoint(20))
    story.see(running)
    decision = story.see(taken_back(running, leaving(0), leaving(1)), after=5)
    assert decision.actions == (StopAttempt(1, force=False),), "else the queue could let go what is still saving"
    assert (story.phase(), story.reason(ConditionType.RUNNING)) == (Phase.RUNNING, "Stopping")
    saved = [worker(index, FAILED, outcome=preempted_outcome(31)) for index in (0, 1)]
    going = taken_back(running, saved[0], leaving(1), is_being_deleted=True)
    assert StartAttempt(2) not in story.see(going, after=5).actions
    decision = story.see(taken_back(running, *saved, is_being_deleted=True), after=5)
    assert decision.actions == (StartAttempt(2),)
    record = story.status.attempts[0]
    assert (record.cause, record.decision, record.steps_lost) == ("Disruption", "RetryUncounted", 0)
    assert record.message == (
        "queue research has taken the run's place back (Preempted: to accommodate a workload of higher priority)"
    )
    assert (there(story.status.checkpoint).step, story.status.failures) == (31, 0)
    story.see(held(number=2, created_at=story.now))
    assert (story.phase(), story.status.queue) == (Phase.QUEUED, "research #3")


def test_what_the_queue_lets_go_again_too_soon_goes_all_the_same() -> None:
    story = Story(**QUEUED)
    running = trained(step=30)
    story.see(running)
    story.see(taken_back(running, leaving(0), leaving(1)), after=1)
    again = dataclasses.replace(running, workers=(leaving(0), worker(1, WAITING)), progress=None)
    assert story.see(again, after=1).actions == (StopAttempt(1, force=False),)
    late = SETTINGS.pods.grace_seconds + SETTINGS.fencing_grace_seconds
    assert story.see(again, after=late).actions == (StopAttempt(1, force=True),)
    assert story.see(after=5).actions == (StartAttempt(2),)
    assert story.status.attempts[0].cause == "Disruption"


def test_an_evicted_job_whose_workers_are_gone_is_cleared_before_the_next_attempt() -> None:
    story = Story(**QUEUED)
    story.see(trained())
    gone = taken_back(trained())
    assert story.see(gone, after=5).actions == (StopAttempt(1, force=False),)
    assert story.see(after=5).actions == (StartAttempt(2),)


def test_a_reason_that_the_message_begins_with_is_said_once() -> None:
    story = Story(**QUEUED)
    story.see(trained())
    place = dataclasses.replace(PREEMPTED, message="Preempted to accommodate a workload")
    story.see(dataclasses.replace(taken_back(trained()), place=place), after=5)
    assert there(story.status.attempts[0].message).endswith("place back (Preempted to accommodate a workload)")


def test_pods_that_are_seen_to_go_before_their_job_is_seen_suspended_were_taken_back() -> None:
    story = Story(**QUEUED)
    running = trained(step=30)
    story.see(running)
    assert story.see(dataclasses.replace(running, workers=(leaving(0), leaving(1))), after=1).actions == ()
    assert story.see(taken_back(running, leaving(0), leaving(1)), after=1).actions == (StopAttempt(1, force=False),)
    assert there(story.status.attempts[0].message).startswith("queue research has taken")


def test_half_a_gang_that_is_taken_back_is_a_gang_that_is_taken_back() -> None:
    story = Story(**QUEUED)
    half = attempt(worker(0, RUNNING), worker(1, WAITING, waiting_reason="Unschedulable"))
    story.see(half)
    assert story.see(taken_back(half, leaving(0)), after=5).actions == (StopAttempt(1, force=False),)


def test_a_gang_of_which_no_pod_had_a_node_stays_in_its_queue() -> None:
    story = Story(**QUEUED)
    story.see(attempt(worker(0, WAITING, node=None), worker(1, WAITING, node=None)))
    decision = story.see(held(), after=5)
    assert (decision.actions, story.status.attempts[0].ended_at, story.phase()) == ((), None, Phase.QUEUED)


def test_old_news_of_the_job_beside_fresh_pods_is_no_eviction() -> None:
    story = Story(**QUEUED)
    stale = attempt(worker(0), worker(1), is_suspended_by_queue=True)
    decision = story.see(stale)
    assert (decision.actions, story.status.attempts[0].running_since) == ((), None)
    story.see(attempt(), after=1)
    assert story.status.attempts[0].running_since is not None


def test_a_failure_of_its_own_is_not_blamed_on_the_queue() -> None:
    story = Story(**QUEUED)
    running = trained()
    story.see(running)
    broken = worker(0, FAILED, outcome=failed_outcome(ExitCode.USER_ERROR, "DiskFull"))
    story.see(taken_back(running, broken, leaving(1)), after=5)
    story.see(taken_back(running, broken, is_failed=True), after=5)
    assert (story.phase(), story.status.attempts[0].reason) == (Phase.FAILED, "DiskFull")


def test_a_run_that_was_done_by_then_is_done() -> None:
    story = Story(**QUEUED)
    running = trained()
    story.see(running)
    story.see(taken_back(running, leaving(0), leaving(1)), after=5)
    done = [worker(index, SUCCEEDED, outcome=done_outcome()) for index in (0, 1)]
    story.see(taken_back(running, *done, is_being_deleted=True), after=5)
    assert story.phase() is Phase.SUCCEEDED


# How long workers may run


def test_a_run_that_has_used_up_its_time_saves_and_is_given_up() -> None:
    story = Story(scheduling={"activeDeadlineSeconds": 600})
    story.see(trained())
    story.see(trained(step=20, at=START + 590), after=590)
    assert story.phase() is Phase.RUNNING
    decision = story.see(trained(step=21, at=START + 600), after=10)
    assert decision.actions == (StopAttempt(1, force=False),)
    saved = [worker(index, FAILED, outcome=preempted_outcome(22)) for index in (0, 1)]
    story.see(attempt(*saved, is_being_deleted=True), after=5)
    failure = there(story.status.failure)
    assert (story.phase(), failure.reason) == (Phase.FAILED, "DeadlineExceeded")
    assert "scheduling.activeDeadlineSeconds: 600, all attempts together" in failure.message
    assert (there(story.status.checkpoint).step, story.status.active_seconds) == (22, 605)


def test_attempts_share_the_time_and_waiting_takes_none_of_it() -> None:
    story = Story(scheduling={"activeDeadlineSeconds": 600})
    story.see(held())
    story.see(trained(), after=5000)
    story.see(after=400)
    assert (story.status.active_seconds, story.status.failure) == (400, None)
    story.see(attempt(worker(0, WAITING), worker(1, WAITING), number=2), after=5000)
    second = trained(number=2, step=20, resumed_from_step=10, at=story.now)
    decision = story.see(second)
    assert decision.next_look_seconds == SETTINGS.progress_interval_seconds
    assert story.see(trained(number=2, step=21, resumed_from_step=10, at=story.now + 195), after=195).actions == ()
    assert story.see(second, after=5).actions == (StopAttempt(2, force=False),)


def test_the_end_of_the_time_is_looked_for_when_it_comes() -> None:
    story = Story(scheduling={"activeDeadlineSeconds": 600})
    story.see(trained())
    assert story.see(trained(step=20, at=START + 596), after=596).next_look_seconds == 4


def test_an_attempt_that_has_done_no_step_has_nothing_to_save() -> None:
    story = Story(scheduling={"activeDeadlineSeconds": 60})
    story.see(attempt())
    assert story.see(attempt(), after=60).actions == (StopAttempt(1, force=True),)
    assert story.phase() is Phase.FAILED


def test_no_attempt_follows_one_that_used_up_the_time() -> None:
    story = Story(scheduling={"activeDeadlineSeconds": 600})
    story.see(trained())
    decision = story.see(attempt(worker(0, FAILED, disruption="PreemptionByScheduler"), is_failed=True), after=700)
    assert decision.actions == ()
    assert there(story.status.failure).reason == "DeadlineExceeded"


def test_a_finished_run_is_never_run_again_whatever_is_changed() -> None:
    story = Story(scheduling={"activeDeadlineSeconds": 600})
    story.see(trained())
    done = [worker(index, SUCCEEDED, outcome=done_outcome()) for index in (0, 1)]
    story.see(attempt(*done), after=5)
    story.change(scheduling={"ttlSecondsAfterFinished": 9000}, recovery={"maxRestarts": 9})
    assert story.see(after=700).actions == ()
    assert (story.phase(), len(story.status.attempts)) == (Phase.SUCCEEDED, 1)
