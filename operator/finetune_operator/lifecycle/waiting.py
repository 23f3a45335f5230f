"""Workers that cannot start yet: what they wait for, and what the user can do about it.

Waiting is no failure. A Secret that is made, an image that appears or a queue that admits the run lets the workers go
on by themselves, so nothing is stopped here and no attempt is used up; only preRunningDeadlineSeconds ends it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.lifecycle.decision import View
from finetune_operator.lifecycle.room import in_words
from finetune_operator.observation import Attempt, CpuWork, Preparation, Push, Worker, WorkerState
from finetune_operator.planning import input_secrets
from finetune_operator.resource import Qwen3FineTune, SecretKeyRef

QUEUED = "Queued"
UNSCHEDULABLE = "Unschedulable"
GATED = "SchedulingGated"
QUOTA_EXCEEDED = "QuotaExceeded"
QUEUE_REASONS = frozenset({QUEUED, UNSCHEDULABLE, GATED, QUOTA_EXCEEDED})
"""Reasons of waiting for room, not for a missing thing: the run is in phase Queued."""

Secrets = list[tuple[str, SecretKeyRef]]
"""Those that pods need, each with the field that names it."""

_SECRET_MISSING = re.compile(r'secret "([^"]+)" not found')
_KEY_MISSING = re.compile(r"couldn't find key (\S+) in Secret [^/]*/(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What something waits for."""

    reason: str
    """CamelCase, for conditions."""
    message: str


def attempt_waits_for(attempt: Attempt, view: View) -> Waiting | None:
    """The most telling thing that keeps the workers of `attempt` from starting; None: nothing worth a word."""
    return next(_obstacles(attempt, view), None)


def preparation_waits_for(preparation: Preparation, view: View) -> Waiting | None:
    """What keeps the preparation from starting; None: nothing worth a word."""
    if preparation.state is not WorkerState.WAITING:
        return None
    claims = next(_claims(view), None)
    if claims is not None:
        return claims
    return _work_waits_for(preparation, view.run, _secrets(view.run))


def push_waits_for(push: Push, view: View) -> Waiting | None:
    """What keeps a push from starting; None: nothing worth a word."""
    if push.state is not WorkerState.WAITING:
        return None
    wanted = view.run.spec.output.push
    secrets = [] if wanted is None else [("spec.output.push.tokenSecret", wanted.token_secret)]
    return _work_waits_for(push, view.run, secrets)


def _work_waits_for(work: CpuWork, run: Qwen3FineTune, secrets: Secrets) -> Waiting | None:
    if work.waiting_reason is None and work.waiting_message:
        return _not_created(work.waiting_message, "PodNotCreated")
    return _explained(work.waiting_reason, work.waiting_message, run, secrets)


def _obstacles(attempt: Attempt, view: View) -> Iterator[Waiting]:
    waiting = [worker for worker in attempt.workers if worker.state is WorkerState.WAITING]
    secrets = _secrets(view.run)
    for worker in sorted(waiting, key=_is_for_room):
        if (told := _explained(worker.waiting_reason, worker.waiting_message, view.run, secrets)) is not None:
            if told.reason == UNSCHEDULABLE:
                yield from _claims(view)
            yield Waiting(reason=told.reason, message=f"worker {worker.index}: {told.message}")
    if attempt.is_suspended_by_queue:
        yield Waiting(reason=QUEUED, message=_held_back(attempt))
    if attempt.job_message and len(attempt.workers) < attempt.num_nodes:
        yield _not_created(attempt.job_message, "WorkersNotCreated")


def _held_back(attempt: Attempt) -> str:
    place = attempt.place
    if place is None:
        return f"somebody has suspended the Job of attempt {attempt.number}; it goes on when its spec.suspend is false"
    line = f", place {place.position} in line" if place.position is not None else ""
    return f"waits in queue {place.queue}{line}: {place.message}"


def queue_shown(view: View) -> str:
    """The run's queue for people, with its place while it waits there."""
    queue, attempt = view.run.spec.scheduling.queue, view.observation.current
    if queue is None:
        return "none"
    if attempt is None or attempt.place is None or attempt.place.position is None:
        return queue
    return f"{queue} #{attempt.place.position}"


def _not_created(said: str, otherwise: str) -> Waiting:
    """What keeps the Job controller from making pods; `otherwise` is the reason if it is not a quota."""
    return Waiting(reason=QUOTA_EXCEEDED if "quota" in said else otherwise, message=said)


def _is_for_room(worker: Worker) -> bool:
    return worker.waiting_reason in (UNSCHEDULABLE, GATED)


def _claims(view: View) -> Iterator[Waiting]:
    observation = view.observation
    for name in observation.missing_claims:
        message = f"the PersistentVolumeClaim {name} ({_claim_field(view.run, name)}) does not exist; create it"
        yield Waiting(reason="ClaimNotFound", message=message)
    for claim in observation.unbound_claims:
        if claim.message:
            message = f"the PersistentVolumeClaim {claim.name} has no volume yet: {claim.message}"
            yield Waiting(reason="VolumePending", message=message)


def _claim_field(run: Qwen3FineTune, name: str) -> str:
    storage = run.spec.storage
    if storage.inputs is not None and storage.inputs.claim_name == name:
        return "spec.storage.inputs.claimName"
    return "spec.storage.cache.claimName" if storage.cache.claim_name == name else "spec.storage.output.claimName"


def _explained(reason: str | None, message: str | None, run: Qwen3FineTune, secrets: Secrets) -> Waiting | None:
    if reason is None or (reason in ("ContainerCreating", "PodInitializing") and not message):
        return None
    said = message or reason
    if (found := _SECRET_MISSING.search(said)) is not None:
        field, key = _secret_field(secrets, found[1])
        remedy = f"kubectl create secret generic {found[1]} --from-literal={key}=..."
        return Waiting(
            reason="SecretNotFound",
            message=f"{field}: there is no Secret {found[1]} in namespace {run.metadata.namespace}; "
            f"the run goes on once it is there: {remedy}",
        )
    if (found := _KEY_MISSING.search(said)) is not None:
        field, _ = _secret_field(secrets, found[2])
        return Waiting(reason="SecretKeyNotFound", message=f"{field}: the Secret {found[2]} has no key {found[1]}")
    return Waiting(reason=reason, message=in_words(said) if reason == UNSCHEDULABLE else said)


def _secret_field(secrets: Secrets, name: str) -> tuple[str, str]:
    """The field that names this Secret, and the key that it wants."""
    for field, secret in secrets:
        if secret.name == name:
            return field, secret.key
    return "the operator's settings", "key"


def _secrets(run: Qwen3FineTune) -> Secrets:
    """All but the one that only a push needs, which may be of the same name."""
    trackers = run.spec.tracking.secrets.items()
    return [
        *((secret.field, secret.key) for secret in input_secrets(run)),
        *((f"spec.tracking.{field}", secret) for field, secret in trackers),
    ]
