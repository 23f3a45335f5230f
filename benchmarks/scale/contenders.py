"""Who is measured: each makes the same pods in its own way."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import usage

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import JOBS, RUNS, Kind
from finetune_operator.names import ROLE_LABEL, RUN_LABEL, WORKER_ROLE

TRAIN_JOBS = Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")


class Contender(ABC):
    """What is created, whose pods are whose, and how an end is seen."""

    name: str
    kind: Kind
    users: tuple[str, ...] = ()
    """Under which names its own processes write to the API server."""

    def body(self, number: int, nodes: int, namespace: str) -> Object:
        """The object of that number, whose `nodes` pods ask for one GPU each."""
        metadata = {"name": f"run-{number:05d}", "namespace": namespace}
        return {"apiVersion": self.kind.api_version, "kind": self.kind.name, "metadata": metadata} | self.content(nodes)

    @abstractmethod
    def content(self, nodes: int) -> Object:
        """Its spec."""

    @abstractmethod
    def owner(self, pod: Object) -> str | None:
        """Name of the object whose worker a pod is; None: it is no worker."""

    def is_done(self, item: Object) -> bool:
        """Whether the object says that it has reached its end."""
        conditions = item.get("status", {}).get("conditions", ())
        return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)

    def processes(self) -> Iterable[usage.Process]:
        """Its own processes, beside Kubernetes'."""
        return ()


class Ours(Contender):
    """This project. A preparation on CPUs goes before the workers."""

    name, kind = "this project", RUNS

    def __init__(self, process_id: int, user: str) -> None:
        self.users = (user,)
        self._process_id = process_id

    def content(self, nodes: int) -> Object:
        """As `examples/` would have it."""
        claim = {"claimName": "data"}
        spec: dict[str, Any] = {
            "model": {"id": "Qwen/Qwen3-8B"},
            "dataset": {"path": "rows.json"},
            "parallelism": {"nodes": nodes, "gpusPerNode": 1},
            "training": {"globalBatch": {"samples": 16 * nodes}},
            "resources": {"gpuMemory": "80Gi"},
            "storage": {"cache": claim, "output": claim},
        }
        return {"spec": spec}

    def owner(self, pod: Object) -> str | None:
        """By the run's label."""
        labels = pod["metadata"]["labels"]
        return labels.get(RUN_LABEL) if labels.get(ROLE_LABEL) == WORKER_ROLE else None

    def is_done(self, item: Object) -> bool:
        """By the phase."""
        phase = item.get("status", {}).get("phase")
        assert phase != "Failed", item["status"]
        return bool(phase == "Succeeded")

    def processes(self) -> Iterable[usage.Process]:
        """The operator."""
        return (usage.Process(self._process_id),)


class PlainJobs(Contender):
    """The floor: Indexed Jobs that nobody made anything of."""

    name, kind = "plain Indexed Jobs", JOBS

    def content(self, nodes: int) -> Object:
        """The least that such a Job needs."""
        container = {"name": "node", "image": "trainer", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        counts = {"completions": nodes, "parallelism": nodes, "completionMode": "Indexed", "backoffLimit": 0}
        return {"spec": counts | {"template": template}}

    def owner(self, pod: Object) -> str | None:
        """By the Job controller's label."""
        name: str | None = pod["metadata"]["labels"].get("job-name")
        return name


class Kubeflow(Contender):
    """Kubeflow Trainer with JobSet."""

    name, kind, users = "Kubeflow Trainer v2.0.0 + JobSet v0.10.1", TRAIN_JOBS, ("trainer", "jobset")

    def __init__(self, process_ids: Iterable[int]) -> None:
        self._process_ids = tuple(process_ids)

    def content(self, nodes: int) -> Object:
        """By the runtime that comes with it."""
        trainer = {"numNodes": nodes, "image": "trainer", "command": ["true"]}
        trainer["resourcesPerNode"] = {"limits": {"nvidia.com/gpu": "1"}}
        return {"spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": trainer}}

    def owner(self, pod: Object) -> str | None:
        """By JobSet's label."""
        name: str | None = pod["metadata"]["labels"].get("jobset.sigs.k8s.io/jobset-name")
        return name

    def processes(self) -> Iterable[usage.Process]:
        """Both managers."""
        return tuple(usage.Process(each) for each in self._process_ids)
