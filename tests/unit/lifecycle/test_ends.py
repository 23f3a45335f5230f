"""How attempts and runs end, and what follows."""

from finetune_contract import ExitCode, Stage
from finetune_operator.lifecycle import (
    DeleteRun,
    StartAttempt,
    StopAttempt,
    reopened,
)
from finetune_operator.observation import WorkerState
from finetune_operator.status import Phase
from support.runs import (
    attempt,
    checkpoint,
    done_outcome,
    failed_outcome,
    preempted_outcome,
    there,
    worker,
)
from unit.lifecycle.story import SETTINGS, Story, trained

FAILED, SUCCEEDED = WorkerState.FAILED, WorkerState.SUCCEEDED


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
