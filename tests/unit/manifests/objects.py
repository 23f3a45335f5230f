"""All objects of a run, and the plan and configurations that lead to them."""

from dataclasses import dataclass
from typing import Any

from finetune_contract import PrepareConfig, PushConfig, RunConfig
from finetune_operator import manifests
from finetune_operator.planning import Plan, make_plan, prepare_config, push_config, run_config
from finetune_operator.resource import MethodType, Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import ArtifactStatus
from unit.planning.runs import PREPARATION, REVISION, report, shape

JOB_UID = "job-uid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the operator makes of a run whose preparation has ended well."""

    plan: Plan
    prepare: PrepareConfig
    config: RunConfig
    preparation: list[dict[str, Any]]
    attempt: list[dict[str, Any]]
    push_told: PushConfig | None
    pod_group: list[dict[str, Any]]
    """Of the attempt; empty where its gang has none."""
    push: list[dict[str, Any]]
    """Empty where no push is asked for."""

    @property
    def objects(self) -> list[dict[str, Any]]:
        """In the order in which they are made."""
        return [*self.preparation, *self.attempt, *self.pod_group, *self.push]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The objects of one kind."""
        return [each for each in self.objects if each["kind"] == kind]

    @property
    def worker_pod(self) -> dict[str, Any]:
        """The pod template's spec of the attempt."""
        return pod_of(self.attempt[-1])

    @property
    def push_pod(self) -> dict[str, Any]:
        """The pod template's spec of the push."""
        return pod_of(self.push[-1])

    @property
    def prepare_pod(self) -> dict[str, Any]:
        """The pod template's spec of the preparation."""
        return pod_of(self.preparation[-1])


def made(run: Qwen3FineTune, settings: Settings | None = None, *, attempt: int = 1) -> Made:
    """Everything for attempt number `attempt` of `run`, on a GPU of which nothing is known but what the run says."""
    settings = settings or Settings()
    dataset = report(longest_sequence=run.spec.dataset.max_tokens)
    plan = make_plan(run, model=shape(run), dataset=dataset, gpu_memory_bytes=None)
    locations = manifests.pod_locations(run)
    prepare = prepare_config(run, locations)
    config = run_config(
        run,
        plan,
        PREPARATION,
        locations,
        model_revision=REVISION,
        attempt=attempt,
        grace_seconds=settings.pods.grace_seconds,
    )
    told = None if run.spec.output.push is None else push_config(run, artifacts(run))
    return Made(
        plan=plan,
        prepare=prepare,
        config=config,
        preparation=manifests.preparation_objects(run, prepare, settings),
        attempt=manifests.attempt_objects(run, config, settings),
        pod_group=[group] if (group := manifests.pod_group(run, attempt, JOB_UID)) is not None else [],
        push_told=told,
        push=[] if told is None else manifests.push_objects(run, told, 1, settings),
    )


def artifacts(run: Qwen3FineTune) -> tuple[ArtifactStatus, ...]:
    """What `run` leaves behind."""
    output, is_full = f"/output/{run.metadata.name}", run.spec.method.type is MethodType.FULL
    made_kinds = {"Model": "model"} if is_full else {"Adapter": "adapter"}
    if run.spec.output.merge_adapter:
        made_kinds |= {"MergedModel": "merged"}
    return tuple(
        ArtifactStatus(kind=kind, path=f"{output}/{folder}", digest=f"sha256:{'a' * 64}", bytes=30_000_000)
        for kind, folder in made_kinds.items()
    )


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The spec of a Job's pods."""
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The one container of a pod."""
    (container,) = pod["containers"]
    return dict(container)


def environment_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Name to value, or to where the value is from."""
    found = container_of(pod)["env"]
    assert len({entry["name"] for entry in found}) == len(found), "a name twice"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in found}
