"""Jobs and pods of a run, put together to attempts and a preparation."""

from finetune_operator.backends.kubernetes import observe
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.observation import Attempt, WorkerState
from support import kube_objects as objects
from support import runs


def test_an_attempt_is_its_job_and_its_pods_in_order_of_rank() -> None:
    pods = [objects.pod(f"pod-{index}", index=index) for index in (2, 0, 1)]
    attempt = _only([objects.job(nodes=3)], pods)
    assert [worker.index for worker in attempt.workers] == [0, 1, 2]
    assert (attempt.number, attempt.num_nodes, attempt.is_being_deleted) == (1, 3, False)


def test_pods_without_their_job_are_an_attempt_on_its_way_out() -> None:
    attempt = _only([], [objects.pod(index=1)])
    assert (attempt.number, attempt.num_nodes, attempt.is_being_deleted) == (1, 2, True)


def test_attempts_are_told_apart_by_their_number_and_oldest_first() -> None:
    jobs = [objects.job(10), objects.job(9)]
    found = observe.attempts(jobs, [objects.pod("a", attempt=10), objects.pod("b", attempt=9)], {}, {})
    assert [(attempt.number, len(attempt.workers)) for attempt in found] == [(9, 1), (10, 1)]


def test_a_queue_that_holds_the_job_back_is_seen() -> None:
    assert _only([objects.job(spec={"suspend": True})], []).is_suspended_by_queue


def test_a_job_that_its_controller_gave_up_says_why() -> None:
    failed = {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}
    attempt = _only([objects.job(status={"conditions": [failed]})], [])
    assert (attempt.is_failed, attempt.job_message) == (True, "Job has reached the specified backoff limit")


def test_a_job_without_pods_says_what_was_complained_of() -> None:
    job = objects.job()
    [attempt] = observe.attempts([job], [], {job["metadata"]["uid"]: "exceeded quota: gpus"}, {})
    assert attempt.job_message == "exceeded quota: gpus"


def test_only_a_job_that_ought_to_have_more_pods_needs_an_explanation() -> None:
    complete = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert observe.lacks_pods(objects.job(), [])
    assert observe.lacks_pods(objects.job(nodes=2), [objects.pod()])
    assert not observe.lacks_pods(objects.job(), [objects.pod()])
    assert not observe.lacks_pods(objects.job(spec={"suspend": True}), [])
    assert not observe.lacks_pods(objects.job(status=complete), [])
    assert not observe.lacks_pods(objects.job(meta={"deletionTimestamp": "2026-01-01T00:00:09Z"}), [])


def test_the_preparation_is_its_newest_pod_and_begins_with_its_job() -> None:
    pod = objects.pod(
        "p", attempt=None, phase="Succeeded", container=objects.terminated(0, runs.prepared().to_message())
    )
    job = objects.job(None, meta={"creationTimestamp": "2025-12-31T23:59:59Z"})
    found = observe.preparation([job], [pod], {})
    assert found is not None
    assert (found.state, found.outcome, found.created_at) == (WorkerState.SUCCEEDED, runs.prepared(), 1767225599.0)


def test_a_preparation_without_a_pod_waits_and_one_that_was_given_up_has_failed() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    waiting = observe.preparation([objects.job(None)], [], {})
    broken = observe.preparation([objects.job(None, status={"conditions": [failed]})], [], {})
    assert waiting is not None
    assert broken is not None
    assert waiting.state is WorkerState.WAITING
    assert (broken.state, broken.message) == (WorkerState.FAILED, "DeadlineExceeded")


def test_a_run_of_which_nothing_is_left_has_neither() -> None:
    assert observe.preparation([], [], {}) is None
    assert observe.attempts([], [], {}, {}) == ()


def _only(jobs: list[Object], pods: list[Object]) -> Attempt:
    [attempt] = observe.attempts(jobs, pods, {}, {})
    return attempt
