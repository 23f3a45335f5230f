"""The kinds of objects that the operator touches, and where the API server serves them."""

from dataclasses import dataclass

from finetune_operator.names import MANAGER
from finetune_operator.resource import GROUP, KIND, PLURAL, VERSION


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind; `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    name: str

    @property
    def api_version(self) -> str:
        """As objects of this kind spell it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of one object, or of all; without a namespace: of the whole cluster."""
        parts = ["apis", self.group] if self.group else ["api"]
        parts.append(self.version)
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


RUNS = Kind(GROUP, VERSION, PLURAL, KIND)
JOBS = Kind("batch", "v1", "jobs", "Job")
PODS = Kind("", "v1", "pods", "Pod")
SERVICES = Kind("", "v1", "services", "Service")
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS = Kind("", "v1", "events", "Event")
NODES = Kind("", "v1", "nodes", "Node")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")

WORKLOADS = tuple(Kind("kueue.x-k8s.io", version, "workloads", "Workload") for version in ("v1beta2", "v1beta1"))
"""Kueue's own record of a Job; newest version first."""
LOCAL_QUEUES = tuple(
    Kind("visibility.kueue.x-k8s.io", version, "localqueues", "LocalQueue") for version in ("v1beta2", "v1beta1")
)
"""Of which only the line of pending Workloads can be asked for."""
POD_GROUPS = {
    kind.api_version: kind
    for kind in (
        Kind("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup"),
        Kind("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup"),
    )
}
"""Of Volcano, and of the coscheduling plug-in."""

CHILDREN = (JOBS, PODS, SERVICES, CONFIG_MAPS, CLAIMS)
"""What belongs to a run and is watched by label."""
WATCHED = (RUNS, *CHILDREN)

OURS = f"app.kubernetes.io/managed-by={MANAGER}"
"""Label selector of every child."""


def selector(kind: Kind) -> str | None:
    """Which objects of a watched kind are of interest: every run, and of the rest what this operator made."""
    return None if kind is RUNS else OURS
