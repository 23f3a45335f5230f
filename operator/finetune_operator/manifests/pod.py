"""What the pods of all roles have in common: Pod Security `restricted`, placement, and how they say why they ended."""

from dataclasses import dataclass, field

from finetune_operator.manifests.environment import TERMINATION_FILE
from finetune_operator.manifests.metadata import Manifest, without_empty
from finetune_operator.manifests.volumes import Mounted
from finetune_operator.resource import Qwen3FineTune, Toleration
from finetune_operator.settings import Fabric, Settings

# Without the policy, such a pod would ask the node's resolver, which knows no Service.
_HOST_NETWORK = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodParts:
    """What differs between the roles."""

    container_name: str
    command: list[str]
    environment: list[Manifest]
    mounted: list[Mounted]
    resources: Manifest
    ports: list[Manifest]
    grace_seconds: int
    subdomain: str | None = None
    scheduler_name: str | None = None
    """None: the cluster's own."""
    affinity: Manifest = field(default_factory=dict)
    fabric: Fabric = field(default_factory=Fabric)
    """Its network and its capability are the pod's business, the rest is in the parts above."""


def pod_spec(run: Qwen3FineTune, parts: PodParts, settings: Settings) -> Manifest:
    """A pod without a token, without rights, on a read-only root, that is never restarted in place.

    Only a fabric of the admin's can give it the node's network or a capability, and Pod Security's `restricted` up.

    Preparation is placed like training: a volume is often made where its first pod runs, and the GPUs must reach it.
    """
    scheduling = run.spec.scheduling
    return without_empty(
        {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": parts.grace_seconds,
            "subdomain": parts.subdomain,
            "schedulerName": parts.scheduler_name,
            **(_HOST_NETWORK if parts.fabric.host_network else {}),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": _pod_security(settings),
            "runtimeClassName": settings.pods.runtime_class_name,
            "priorityClassName": scheduling.priority_class,
            "nodeSelector": dict(scheduling.node_selector),
            "affinity": parts.affinity,
            "tolerations": [_toleration(each) for each in scheduling.tolerations],
            "imagePullSecrets": [{"name": name} for name in settings.image.pull_secrets],
            "containers": [_container(parts, settings)],
            "volumes": [each.volume for each in parts.mounted],
        }
    )


def _container(parts: PodParts, settings: Settings) -> Manifest:
    return without_empty(
        {
            "name": parts.container_name,
            "image": settings.image.reference,
            "imagePullPolicy": settings.image.pull_policy,
            "command": parts.command,
            "env": parts.environment,
            "ports": parts.ports,
            "resources": parts.resources,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if parts.fabric.ipc_lock else {})},
                "readOnlyRootFilesystem": True,
            },
            "terminationMessagePath": TERMINATION_FILE,
            "terminationMessagePolicy": "File",
            "volumeMounts": [each.mount for each in parts.mounted],
        }
    )


def _pod_security(settings: Settings) -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": settings.pods.user_id,
        "runAsGroup": settings.pods.group_id,
        "fsGroup": settings.pods.group_id,
        # else kubelet would change the owner of every file of a large volume, at every start
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _toleration(toleration: Toleration) -> Manifest:
    return without_empty(
        {
            "key": toleration.key,
            "operator": str(toleration.operator),
            "value": toleration.value,
            "effect": str(toleration.effect) if toleration.effect else None,
        }
    )
