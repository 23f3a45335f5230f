"""What is pushed and where, in the contract's words."""

import hashlib
from collections.abc import Sequence

from finetune_contract import Artifact, ArtifactKind, HubKind, PushConfig, PushTarget, RunIdentity
from finetune_operator.resource import MethodType, Push, PushWhat, Qwen3FineTune
from finetune_operator.status import ArtifactStatus

DEFAULT_BRANCH = {HubKind.HUGGING_FACE: "main", HubKind.MODEL_SCOPE: "master"}

_KINDS: dict[PushWhat, tuple[ArtifactKind, ...]] = {
    PushWhat.ADAPTER: ("Adapter",),
    PushWhat.MERGED: ("MergedModel",),
    PushWhat.BOTH: ("Adapter", "MergedModel"),
}


def pushed_kinds(run: Qwen3FineTune, push: Push) -> tuple[ArtifactKind, ...]:
    """Which artifacts of `run` are pushed."""
    if run.spec.method.type is MethodType.FULL:
        return ("Model",)
    return _KINDS[push.what or PushWhat.ADAPTER]


def push_config(run: Qwen3FineTune, artifacts: Sequence[ArtifactStatus]) -> PushConfig:
    """What the pod is told that pushes `artifacts`, all that `run` has made."""
    push = run.spec.output.push
    assert push is not None, "a push is asked for"
    kinds = pushed_kinds(run, push)
    hub = HubKind(push.hub)
    return PushConfig(
        run=RunIdentity(name=run.metadata.name, namespace=run.metadata.namespace, uid=run.metadata.uid),
        target=PushTarget(
            hub=hub,
            repository=push.repository,
            private=push.private,
            revision=push.revision or DEFAULT_BRANCH[hub],
        ),
        artifacts=tuple(_artifact(each) for each in artifacts if each.kind in kinds),
    )


def push_target(run: Qwen3FineTune, push: Push) -> str:
    """What is pushed and where, in a line: as long as this is the same, it is pushed once."""
    branch = push.revision or DEFAULT_BRANCH[HubKind(push.hub)]
    return f"{' and '.join(pushed_kinds(run, push))} to {push.repository} on {push.hub}, branch {branch}"


def push_request(push: Push) -> str:
    """Key of all that a push is told, its Secret too: when it changes, one that is under way is of no use any more."""
    return hashlib.sha256(push.model_dump_json().encode()).hexdigest()[:16]


def _artifact(status: ArtifactStatus) -> Artifact:
    known = status.model_dump(include=set(Artifact.model_fields))
    return Artifact.model_validate(known | {"serve": status.serve or ""})
