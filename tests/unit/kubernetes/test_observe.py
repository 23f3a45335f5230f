"""Jobs and pods of a run, put together to attempts and a preparation."""

from finetune_contract import ExitCode
from finetune_operator.backends.kubernetes import observe
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.names import KUEUE_QUEUE_LABEL
from finetune_operator.observation import Attempt, QueuePlace, WorkerState
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


def test_a_pod_that_is_being_set_up_says_what_was_complained_of() -> None:
    pod, ended = objects.pod(container={"waiting": {"reason": "ContainerCreating"}}), objects.pod("b", phase="Failed")
    complaint = "FailedMount: MountVolume.SetUp failed: read-only file system"
    complaints = {each["metadata"]["uid"]: complaint for each in (pod, ended)}
    [attempt] = observe.attempts([objects.job()], [pod], complaints, {})
    assert (attempt.workers[0].waiting_reason, attempt.workers[0].waiting_message) == ("ContainerCreating", complaint)
    assert (observe.is_set_up(pod), observe.is_set_up(ended)) == (True, False)


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


def test_a_push_is_its_newest_job_and_that_jobs_pod() -> None:
    ended = objects.terminated(0, runs.pushed_outcome().to_message())
    pods = [objects.push_pod(1, phase="Running"), objects.push_pod(2, phase="Succeeded", container=ended)]
    found = observe.push([objects.push_job(2), objects.push_job(1), objects.job()], [*pods, objects.pod()], {})
    assert found is not None
    assert (found.number, found.target, found.request) == (2, "target 2", "request-2")
    assert (found.state, found.exit_code, found.outcome) == (WorkerState.SUCCEEDED, 0, runs.pushed_outcome())


def test_a_push_that_failed_says_why() -> None:
    refused = runs.failed_push(ExitCode.USER_ERROR, "TokenRefused")
    told = objects.push_pod(phase="Failed", container=objects.terminated(64, refused.to_message()))
    killed = objects.push_pod(phase="Failed", container=objects.terminated(137, reason="OOMKilled"))
    found, wordless = observe.push([objects.push_job()], [told], {}), observe.push([objects.push_job()], [killed], {})
    assert found is not None
    assert wordless is not None
    assert (found.state, found.outcome, found.message) == (WorkerState.FAILED, refused, None)
    assert (wordless.exit_code, wordless.reason, wordless.outcome) == (137, "OOMKilled", None)


def test_a_push_waits_for_its_pod_and_ends_with_its_job() -> None:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}}
    held = observe.push([objects.push_job()], [objects.push_pod(container=waiting)], {})
    assert held is not None
    assert (held.is_alive, held.waiting_message) == (True, 'secret "hub" not found')
    failed = {"type": "Failed", "status": "True", "message": 'pods "x" is forbidden'}
    given_up = observe.push([objects.push_job(status={"conditions": [failed]})], [], {})
    assert given_up is not None
    assert (given_up.is_alive, given_up.message) == (False, 'pods "x" is forbidden')
    job = objects.push_job()
    uncreated = observe.push([job], [], {job["metadata"]["uid"]: "exceeded quota: pods"})
    assert uncreated is not None
    assert (uncreated.state, uncreated.waiting_message) == (WorkerState.WAITING, "exceeded quota: pods")
    leaving = observe.push([objects.push_job(meta={"deletionTimestamp": "2026-01-01T00:00:09Z"})], [], {})
    assert leaving is not None
    assert (leaving.is_alive, leaving.is_being_deleted) == (True, True)


def test_a_push_whose_marks_somebody_removed_is_one_that_was_told_something_else() -> None:
    bare = objects.push_job(1)
    del bare["metadata"]["annotations"]
    found = observe.push([bare], [], {})
    assert found is not None
    assert (found.target, found.request) == ("", "")
    bare["metadata"]["labels"]["finetune.qwen3.io/push"] = "first"
    assert observe.push([bare], [], {}) is None


def test_the_pod_of_a_push_is_no_preparation_and_no_worker() -> None:
    assert observe.preparation([], [objects.push_pod()], {}) is None
    assert observe.attempts([objects.push_job()], [objects.push_pod()], {}, {}) == ()


def test_a_run_of_which_nothing_is_left_has_neither() -> None:
    assert observe.push([objects.job()], [objects.pod()], {}) is None
    assert observe.preparation([], [], {}) is None
    assert observe.attempts([], [], {}, {}) == ()


def _only(jobs: list[Object], pods: list[Object]) -> Attempt:
    [attempt] = observe.attempts(jobs, pods, {}, {})
    return attempt


def test_a_job_that_is_held_back_is_known_by_its_place() -> None:
    place = QueuePlace(queue="research", message="no quota")
    job = objects.job(spec={"suspend": True})
    [waiting] = observe.attempts([job], [], {}, {}, {job["metadata"]["uid"]: place})
    assert (waiting.is_suspended_by_queue, waiting.place) == (True, place)
    assert not _only([objects.job()], []).is_suspended_by_queue


def test_only_a_held_back_job_of_a_queue_is_asked_about() -> None:
    held = objects.job(spec={"suspend": True})
    assert not observe.waits_in_kueue(held), "a person may have suspended it"
    held["metadata"]["labels"] |= {KUEUE_QUEUE_LABEL: "research"}
    assert observe.waits_in_kueue(held)
    failed = {"conditions": [{"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}]}
    assert not observe.waits_in_kueue(held | {"status": failed})
    assert not observe.waits_in_kueue(held | {"spec": {"suspend": False}})
    held["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:09Z"
    assert not observe.waits_in_kueue(held)


def test_a_preparation_that_somebody_suspended_is_told() -> None:
    found = observe.preparation([objects.job(None, spec={"suspend": True})], [], {})
    assert found is not None
    assert (found.state, found.waiting_reason) == (WorkerState.WAITING, "JobSuspended")
    assert "manageJobsWithoutQueueName" in (found.waiting_message or "")
