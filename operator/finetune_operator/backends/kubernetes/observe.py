"""Pure: Jobs and pods of a run -> preparation, attempts and push."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from finetune_contract import PrepareOutcome, Progress, PushOutcome
from finetune_operator.backends.kubernetes import pods
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.names import (
    KUEUE_QUEUE_LABEL,
    PREPARE_ROLE,
    PUSH_LABEL,
    PUSH_REQUEST_ANNOTATION,
    PUSH_TARGET_ANNOTATION,
    ROLE_LABEL,
)
from finetune_operator.observation import Attempt, CpuWork, Preparation, Push, QueuePlace, Worker, WorkerState


@dataclass(frozen=True, slots=True)
class SeenProgress:
    """Rank 0's newest answer, and when it came."""

    progress: Progress
    at: float


def is_owned_by(item: Object, uid: str) -> bool:
    """Whether the object was made for exactly this run, and not for a namesake that was deleted."""
    return any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ()))


def preparation(jobs: Iterable[Object], of_pods: Iterable[Object], complaints: Mapping[str, str]) -> Preparation | None:
    """The preparation, if anything is left of it. `complaints` are the last warnings about Jobs and pods, by uid."""
    job = next((job for job in jobs if _is_preparation(job)), None)
    newest = max((pod for pod in of_pods if _is_preparation(pod)), key=pods.created_at, default=None)
    if newest is not None:
        outcome = pods.parsed_outcome(PrepareOutcome, pods.termination_text(newest))
        work = _work_of_pod(newest, job, complaints, has_told=outcome is not None)
        return Preparation(**asdict(work), outcome=outcome)
    return None if job is None else Preparation(**asdict(_work_of_job(job, complaints)))


def push(jobs: Iterable[Object], of_pods: Iterable[Object], complaints: Mapping[str, str]) -> Push | None:
    """The newest push whose Job is there."""
    numbered = {number: job for job in jobs if (number := _push_number(job)) is not None}
    if not numbered:
        return None
    number, job = max(numbered.items())
    pod = max((pod for pod in of_pods if _push_number(pod) == number), key=pods.created_at, default=None)
    outcome = None if pod is None else pods.parsed_outcome(PushOutcome, pods.termination_text(pod))
    has_told = outcome is not None
    work = _work_of_job(job, complaints) if pod is None else _work_of_pod(pod, job, complaints, has_told=has_told)
    told = job["metadata"].get("annotations", {})  # without them, it was told something else
    return Push(
        **asdict(work),
        number=number,
        target=told.get(PUSH_TARGET_ANNOTATION, ""),
        request=told.get(PUSH_REQUEST_ANNOTATION, ""),
        outcome=outcome,
    )


def attempts(
    jobs: Sequence[Object],
    of_pods: Sequence[Object],
    complaints: Mapping[str, str],
    progress: Mapping[int, SeenProgress],
    places: Mapping[str, QueuePlace] = MappingProxyType({}),
) -> tuple[Attempt, ...]:
    """Every attempt of which a Job or a pod is left, oldest first. `places` are those of suspended Jobs, by uid."""
    of_job = {number: job for job in jobs if (number := pods.attempt_number(job)) is not None}
    of_pod: dict[int, list[Object]] = {}
    for pod in of_pods:
        if (number := pods.attempt_number(pod)) is not None:
            of_pod.setdefault(number, []).append(pod)
    return tuple(
        _attempt(number, of_job.get(number), of_pod.get(number, []), complaints, progress.get(number), places)
        for number in sorted({*of_job, *of_pod})
    )


def is_suspended(job: Object) -> bool:
    """Whether somebody holds the Job back: Kueue, or a person."""
    return bool(job["spec"].get("suspend"))


def waits_in_kueue(job: Object) -> bool:
    """Whether the Job is Kueue's to let go, and has not been."""
    is_queued = KUEUE_QUEUE_LABEL in job["metadata"].get("labels", {})
    return is_queued and is_suspended(job) and not is_finished(job) and not pods.is_terminating(job)


def lacks_pods(job: Object, of_pods: Iterable[Object]) -> bool:
    """Whether a Job ought to have more pods than there are, so that its events are worth a look."""
    if is_suspended(job) or is_finished(job) or pods.is_terminating(job):
        return False
    return sum(is_owned_by(pod, job["metadata"]["uid"]) for pod in of_pods) < _num_nodes(job)


def is_set_up(pod: Object) -> bool:
    """Whether a pod that is bound waits without a word of its own, so that its events are worth a look."""
    return not pods.is_terminating(pod) and pods.waiting(pod) == (pods.BEING_SET_UP, None)


def is_finished(job: Object) -> bool:
    """The Job controller has finished with it, well or badly."""
    return job_failure(job) is not None or _has_condition(job, ("Complete", "SuccessCriteriaMet"))


def job_failure(job: Object) -> str | None:
    """Why the Job controller gave the Job up; None: it did not."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True":
            return condition.get("message") or condition.get("reason") or "the Job failed"
    return None


def _attempt(
    number: int,
    job: Object | None,
    of_pods: list[Object],
    complaints: Mapping[str, str],
    seen: SeenProgress | None,
    places: Mapping[str, QueuePlace],
) -> Attempt:
    workers = tuple(
        sorted((_worker(pod, complaints) for pod in of_pods), key=lambda worker: (worker.index, worker.name))
    )
    failure = job_failure(job) if job else None
    return Attempt(
        number=number,
        workers=workers,
        num_nodes=_num_nodes(job) if job else 1 + max(worker.index for worker in workers),
        created_at=min(pods.created_at(item) for item in (job, *of_pods) if item),
        # without its Job, whatever is left of an attempt is on its way out
        is_being_deleted=job is None or pods.is_terminating(job),
        is_suspended_by_queue=bool(job and is_suspended(job)),
        place=places.get(job["metadata"]["uid"]) if job else None,
        is_failed=failure is not None,
        job_message=failure or (complaints.get(job["metadata"]["uid"]) if job else None),
        progress=seen.progress if seen else None,
        progress_seen_at=seen.at if seen else None,
    )


def _worker(pod: Object, complaints: Mapping[str, str]) -> Worker:
    worker = pods.worker(pod)
    return replace(worker, waiting_message=worker.waiting_message or complaints.get(pod["metadata"]["uid"]))


def _work_of_pod(pod: Object, job: Object | None, complaints: Mapping[str, str], *, has_told: bool) -> CpuWork:
    """`has_told`: whether its own outcome says how it ended."""
    waiting_reason, waiting_message = pods.waiting(pod)
    return CpuWork(
        state=pods.state(pod),
        created_at=pods.created_at(job or pod),
        is_being_deleted=pods.is_terminating(pod) or job is None or pods.is_terminating(job),
        waiting_reason=waiting_reason,
        waiting_message=waiting_message or complaints.get(pod["metadata"]["uid"]),
        exit_code=pods.exit_code(pod),
        reason=pods.end_reason(pod),
        message=None if has_told else pods.end_message(pod),
        disruption=pods.disruption(pod),
    )


def _work_of_job(job: Object, complaints: Mapping[str, str]) -> CpuWork:
    """Of a Job that has no pod."""
    held_back = _held_back(job) if is_suspended(job) else None
    return CpuWork(
        state=_state_of_job(job),
        created_at=pods.created_at(job),
        is_being_deleted=pods.is_terminating(job),
        waiting_reason="JobSuspended" if held_back else None,
        waiting_message=held_back or complaints.get(job["metadata"]["uid"]),
        message=job_failure(job),
    )


def _held_back(job: Object) -> str:
    """Jobs of pods on CPUs are never made suspended."""
    return (
        f"somebody has suspended the Job {job['metadata']['name']}; Kueue does so to Jobs without a queue where"
        " manageJobsWithoutQueueName is set: exempt this namespace there, or set the Job's spec.suspend to false"
    )


def _state_of_job(job: Object) -> WorkerState:
    if job_failure(job) is not None:
        return WorkerState.FAILED
    return WorkerState.SUCCEEDED if is_finished(job) else WorkerState.WAITING


def _num_nodes(job: Object) -> int:
    # A queue may lower parallelism; completions is what was asked for.
    return int(job["spec"].get("completions") or job["spec"].get("parallelism") or 1)


def _is_preparation(item: Object) -> bool:
    return bool(item["metadata"].get("labels", {}).get(ROLE_LABEL) == PREPARE_ROLE)


def _push_number(item: Object) -> int | None:
    label = item["metadata"].get("labels", {}).get(PUSH_LABEL, "")
    return int(label) if label.isdigit() else None


def _has_condition(job: Object, kinds: tuple[str, ...]) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    return any(condition["type"] in kinds and condition["status"] == "True" for condition in conditions)
