"""Every name and label that the operator gives, from the run's name alone: two passes name the same things."""

from finetune_operator.resource import GROUP

MANAGER = "qwen3-finetune-operator"
"""Field manager of server-side apply, and the value of app.kubernetes.io/managed-by."""

RUN_LABEL = f"{GROUP}/run"
ATTEMPT_LABEL = f"{GROUP}/attempt"
ROLE_LABEL = f"{GROUP}/role"
PUSH_LABEL = f"{GROUP}/push"
"""On a push and its pod: which push of the run it is."""
PUSH_TARGET_ANNOTATION = f"{GROUP}/push-target"
"""On a push: what it was told to push and where."""
PUSH_REQUEST_ANNOTATION = f"{GROUP}/push-request"
"""On a push: key of all that it was told."""
RUN_UID_ANNOTATION = f"{GROUP}/run-uid"
"""On pods: which run of that name they are of. A pod may outlive its Job, which alone is owned by the run."""

KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""On the Job of an attempt: Kueue lets it go, from this LocalQueue."""
KUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
KUEUE_JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""On a Workload of Kueue: which Job it is of."""

PREPARE_ROLE = "prepare"
WORKER_ROLE = "worker"
PUSH_ROLE = "push"


def prepare_job(run: str) -> str:
    """The Job that prepares model and data."""
    return f"{run}-prepare"


def push_job(run: str, number: int) -> str:
    """The Job of one push."""
    return f"{run}-push-{number}"


def attempt_job(run: str, attempt: int) -> str:
    """The Indexed Job of one attempt; its pods' host names are `<this>-<node rank>`."""
    return f"{run}-r{attempt}"


def workers_service(run: str) -> str:
    """The headless Service that gives the workers of every attempt their DNS names."""
    return f"{run}-workers"


def config_map(run: str, digest: str) -> str:
    """The immutable ConfigMap whose content has this digest."""
    return f"{run}-config-{digest[:7]}"


def cache_claim(run: str) -> str:
    """The cache volume that a run gets when it names none."""
    return f"{run}-cache"


def output_claim(run: str) -> str:
    """The output volume that a run gets when it names none."""
    return f"{run}-output"


def run_labels(
    run: str, role: str | None = None, attempt: int | None = None, push: int | None = None
) -> dict[str, str]:
    """Labels of everything that belongs to a run."""
    labels = {
        "app.kubernetes.io/name": "qwen3-finetune",
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/component": role or "run",
        RUN_LABEL: run,
    }
    if role is not None:
        labels[ROLE_LABEL] = role
    if attempt is not None:
        labels[ATTEMPT_LABEL] = str(attempt)
    if push is not None:
        labels[PUSH_LABEL] = str(push)
    return labels
