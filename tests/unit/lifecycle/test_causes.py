"""How an attempt ended -> its root cause -> what happens next."""

import pytest

from finetune_contract import PEER_LOST, ExitCode, Outcome
from finetune_operator.failures import (
    Budget,
    Cause,
    Ending,
    Verdict,
    classify,
    classify_preparation,
    decide,
    suspect_node,
)
from finetune_operator.observation import Attempt, Preparation, WorkerState
from support.runs import attempt, checkpoint, done_outcome, failed_outcome, preempted_outcome, preparation, worker

FAILED, RUNNING, SUCCEEDED = WorkerState.FAILED, WorkerState.RUNNING, WorkerState.SUCCEEDED

PEER = failed_outcome(ExitCode.INFRASTRUCTURE, PEER_LOST)
"""What the survivors of any death say."""

FILLED = 'Usage of EmptyDir volume "temporary" exceeds the limit "20Gi". '
LOW = "The node was low on resource: memory. "
"""In the kubelet's words."""

CAUSES = {
    "one outcome": (attempt(worker(0, FAILED, outcome=failed_outcome(ExitCode.OUT_OF_MEMORY))), Cause.OUT_OF_MEMORY),
    "finished": (attempt(worker(0, SUCCEEDED, outcome=done_outcome())), Cause.DONE),
    "finished, and a peer broke on its way out": (
        attempt(worker(0, SUCCEEDED, outcome=done_outcome()), worker(1, FAILED, outcome=PEER)),
        Cause.DONE,
    ),
    "user error beats the echo of its peers": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=failed_outcome(ExitCode.USER_ERROR))),
        Cause.USER_ERROR,
    ),
    "not a number beats a killed worker": (
        attempt(worker(0, FAILED, exit_code=137), worker(1, FAILED, outcome=failed_outcome(ExitCode.NOT_A_NUMBER))),
        Cause.NOT_A_NUMBER,
    ),
    "disruption beats the echo": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, disruption="PreemptionByScheduler", exit_code=137)),
        Cause.DISRUPTION,
    ),
    "disruption of a worker that still terminates": (
        attempt(
            worker(0, FAILED, outcome=PEER), worker(1, RUNNING, disruption="TerminationByKubelet", is_terminating=True)
        ),
        Cause.DISRUPTION,
    ),
    "disruption explains a saved end": (
        attempt(worker(0, FAILED, outcome=preempted_outcome(7), disruption="EvictionByEvictionAPI")),
        Cause.DISRUPTION,
    ),
    "a user error is no disruption, even on a drained node": (
        attempt(worker(0, FAILED, outcome=failed_outcome(ExitCode.USER_ERROR), disruption="EvictionByEvictionAPI")),
        Cause.USER_ERROR,
    ),
    "a hang beats the echo of its end on other nodes": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=failed_outcome(ExitCode.HANG))),
        Cause.HANG,
    ),
    "a lost node explains a hang": (
        attempt(
            worker(0, FAILED, outcome=failed_outcome(ExitCode.HANG)),
            worker(1, FAILED, disruption="DeletionByTaintManager", exit_code=137),
        ),
        Cause.DISRUPTION,
    ),
    "evicted for what it filled itself": (
        attempt(worker(0, FAILED, reason="Evicted", message=FILLED, disruption="TerminationByKubelet", exit_code=137)),
        Cause.UNEXPECTED,
    ),
    "evicted for its node's distress": (
        attempt(worker(0, FAILED, reason="Evicted", message=LOW, disruption="TerminationByKubelet", exit_code=137)),
        Cause.DISRUPTION,
    ),
    "host memory": (attempt(worker(0, FAILED, reason="OOMKilled", exit_code=137)), Cause.HOST_OUT_OF_MEMORY),
    "host memory beats the echo": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, reason="OOMKilled", exit_code=137)),
        Cause.HOST_OUT_OF_MEMORY,
    ),
    "killed without a word": (attempt(worker(0, FAILED, exit_code=137, reason="Error")), Cause.INFRASTRUCTURE),
    "terminated without a word": (attempt(worker(0, FAILED, exit_code=143)), Cause.PREEMPTED),
    "an exception beats the echo": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=failed_outcome(ExitCode.UNEXPECTED))),
        Cause.UNEXPECTED,
    ),
    "peers that the Job controller told to leave hide nothing": (
        attempt(worker(0, FAILED, outcome=preempted_outcome(7)), worker(1, FAILED, exit_code=1)),
        Cause.UNEXPECTED,
    ),
    "who saved and left explains the connection that broke": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=preempted_outcome(7))),
        Cause.PREEMPTED,
    ),
    "who was killed explains more than who saved and left": (
        attempt(worker(0, FAILED, exit_code=137), worker(1, FAILED, outcome=preempted_outcome(7))),
        Cause.INFRASTRUCTURE,
    ),
    "ranks that were told to leave after the connection had broken explain nothing": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=Outcome(exit_code=ExitCode.PREEMPTED))),
        Cause.INFRASTRUCTURE,
    ),
    "terminated without a word after the connection had broken": (
        attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, exit_code=143)),
        Cause.INFRASTRUCTURE,
    ),
    "everybody saved": (attempt(worker(0, FAILED, outcome=preempted_outcome(7))), Cause.PREEMPTED),
    "segmentation fault": (attempt(worker(0, FAILED, exit_code=139)), Cause.UNEXPECTED),
    "an exit code alone": (attempt(worker(0, FAILED, exit_code=64)), Cause.USER_ERROR),
    "refused by its node": (attempt(worker(0, FAILED, reason="UnexpectedAdmissionError")), Cause.INFRASTRUCTURE),
    "exit code 0 without a result": (attempt(worker(0, SUCCEEDED, exit_code=0)), Cause.UNEXPECTED),
    "no worker explains it, and the Job does": (
        attempt(is_failed=True, job_message="Pod a/b has condition DisruptionTarget matching FailJob rule at index 0"),
        Cause.DISRUPTION,
    ),
    "the queue took it back": (
        attempt(worker(0, FAILED, exit_code=137), worker(1, FAILED, exit_code=137), is_suspended_by_queue=True),
        Cause.DISRUPTION,
    ),
    "nobody explains it": (attempt(is_failed=True), Cause.INFRASTRUCTURE),
}


@pytest.mark.parametrize(("ended", "cause"), CAUSES.values(), ids=CAUSES.keys())
def test_the_cause_nearest_to_the_root_is_found(ended: Attempt, cause: Cause) -> None:
    assert classify(ended).cause is cause


def test_the_worker_at_fault_is_named() -> None:
    failure = failed_outcome(ExitCode.USER_ERROR, "BadTarget", rank=3, message="spec.method.lora.targets: no q_prj")
    ending = classify(attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=failure)))
    assert (ending.reason, ending.rank, ending.node, ending.exit_code) == ("BadTarget", 3, "node-1", 64)
    assert ending.message == "rank 3: spec.method.lora.targets: no q_prj"


def test_a_rank_that_was_killed_beats_the_echo_of_its_own_kind() -> None:
    killed = failed_outcome(ExitCode.INFRASTRUCTURE, "RankKilled")
    assert classify(attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, outcome=killed))).reason == "RankKilled"


def test_out_of_memory_comes_with_figures() -> None:
    failure = failed_outcome(ExitCode.OUT_OF_MEMORY, peak_memory_bytes=79 * 2**30, requested_bytes=2 * 2**30)
    message = classify(attempt(worker(0, FAILED, outcome=failure))).message
    assert "79.0 GiB were held at the peak when 2.0 GiB more were asked for" in message


def test_a_reason_that_no_condition_may_carry_becomes_the_cause() -> None:
    failure = failed_outcome(ExitCode.UNEXPECTED, "_Odd_Error")
    assert classify(attempt(worker(0, FAILED, outcome=failure))).reason == "Unexpected"


@pytest.mark.parametrize(
    ("ended", "cause"),
    [
        (preparation(FAILED, outcome=None, exit_code=64), Cause.USER_ERROR),
        (preparation(FAILED, exit_code=137, reason="OOMKilled"), Cause.HOST_OUT_OF_MEMORY),
        (preparation(FAILED, exit_code=143, disruption="EvictionByEvictionAPI"), Cause.DISRUPTION),
        (
            preparation(FAILED, reason="Evicted", message=FILLED, disruption="TerminationByKubelet"),
            Cause.UNEXPECTED,
        ),
        (preparation(FAILED, reason="UnexpectedAdmissionError"), Cause.INFRASTRUCTURE),
        (preparation(FAILED, exit_code=1), Cause.UNEXPECTED),
        (preparation(SUCCEEDED, outcome=None), Cause.UNEXPECTED),
    ],
)
def test_a_preparation_is_classified_alike(ended: Preparation, cause: Cause) -> None:
    assert classify_preparation(ended).cause is cause


def test_a_preparation_without_a_report_is_told_with_its_last_words() -> None:
    told = classify_preparation(preparation(FAILED, exit_code=64, message="the image speaks version 2"))
    assert told.message == "the preparation ended with exit code 64 and left no report: the image speaks version 2"


def verdict(cause: Cause, failures: int = 0, max_restarts: int = 3, *, has_remedy: bool = False) -> Verdict:
    ending = Ending(cause=cause, reason=str(cause), message="")
    return decide(ending, Budget(failures=failures, max_restarts=max_restarts), has_remedy=has_remedy)


@pytest.mark.parametrize("cause", [Cause.DISRUPTION, Cause.PREEMPTED])
def test_what_the_run_is_not_to_blame_for_is_retried_without_using_up_the_budget(cause: Cause) -> None:
    assert verdict(cause, failures=3) is Verdict.RETRY_UNCOUNTED


@pytest.mark.parametrize("cause", [Cause.HANG, Cause.INFRASTRUCTURE, Cause.UNEXPECTED])
def test_what_may_pass_is_retried_as_often_as_the_budget_says(cause: Cause) -> None:
    assert verdict(cause, failures=2) is Verdict.RETRY
    assert verdict(cause, failures=3) is Verdict.GIVE_UP
    assert verdict(cause, failures=0, max_restarts=0) is Verdict.GIVE_UP


@pytest.mark.parametrize(
    "cause",
    [
        Cause.USER_ERROR,
        Cause.OUT_OF_MEMORY,
        Cause.HOST_OUT_OF_MEMORY,
        Cause.NOT_A_NUMBER,
        Cause.DEADLINE_EXCEEDED,
    ],
)
def test_what_would_end_the_same_way_again_is_not_retried(cause: Cause) -> None:
    assert verdict(cause) is Verdict.GIVE_UP


@pytest.mark.parametrize("cause", Cause)
def test_a_remedy_helps_against_want_of_memory_alone_and_whatever_the_budget(cause: Cause) -> None:
    is_remedied = verdict(cause, failures=3, has_remedy=True) is Verdict.REMEDY
    assert is_remedied == (cause in (Cause.OUT_OF_MEMORY, Cause.HOST_OUT_OF_MEMORY))


def test_every_cause_has_a_verdict() -> None:
    assert {verdict(cause, has_remedy=True) for cause in Cause} == set(Verdict)


@pytest.mark.parametrize(
    ("ended", "node"),
    [
        (attempt(worker(0, FAILED, outcome=PEER), worker(1, FAILED, exit_code=137)), "node-1"),
        (attempt(worker(0, FAILED, outcome=failed_outcome(ExitCode.INFRASTRUCTURE, "AcceleratorFailed"))), "node-0"),
        (attempt(worker(0, FAILED, reason="UnexpectedAdmissionError")), "node-0"),
        (attempt(worker(0, FAILED, outcome=PEER)), None),
        (attempt(worker(0, FAILED, outcome=failed_outcome(ExitCode.INFRASTRUCTURE, "RendezvousFailed"))), None),
        (attempt(worker(0, FAILED, disruption="EvictionByEvictionAPI")), None),
        (attempt(worker(0, FAILED, reason="OOMKilled", exit_code=137)), None),
        (attempt(worker(0, FAILED, exit_code=1)), None),
        (attempt(is_failed=True), None),
    ],
    ids=["killed", "accelerator", "refused", "echo", "nobody came", "drained", "host memory", "crash", "no word"],
)
def test_a_node_is_suspect_when_the_failure_points_at_it(ended: Attempt, node: str | None) -> None:
    assert suspect_node(classify(ended)) == node


@pytest.mark.parametrize(
    ("step", "saved", "words"),
    [
        (7, 7, "and saved after step 7"),
        (9, 7, "the grace was over before step 9 was saved; the checkpoint of step 7 is kept"),
        (3, None, "before step 3 was saved; there is no checkpoint"),
        (None, None, "nothing is known to have been lost"),
    ],
)
def test_a_preempted_trainer_is_told_with_what_it_kept(step: int | None, saved: int | None, words: str) -> None:
    outcome = preempted_outcome(7).model_copy(
        update={"step": step, "checkpoint": None if saved is None else checkpoint(saved)}
    )
    assert words in classify(attempt(worker(0, FAILED, outcome=outcome))).message
