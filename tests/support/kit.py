"""The installed kit on a real cluster, as a user meets it: images, chart, a restricted namespace, volumes."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Cluster, addresses, project

ROOT = project.ROOT
SYSTEM = project.NAMESPACE
TEAM = "team-a"
INPUTS, CACHE = project.INPUTS, "model-cache"
HUB_PORT = 28081
"""At the node's address: where pods look for Hugging Face."""
VALUES = {
    "settings.progressIntervalSeconds": "1",
    "trainer.environment.HF_ENDPOINT": f"http://{addresses.NODE}:{HUB_PORT}",
    "trainer.environment.HF_HUB_DISABLE_XET": "YES",
}
Run = dict[str, Any]


@dataclass
class Kit:
    """One cluster with the operator installed by helm, and one team's namespace on it."""

    cluster: Cluster
    team: str = TEAM
    """The namespace of its runs."""
    seen: dict[str, list[str]] = field(default_factory=dict)
    """For each run the lines of `kubectl get` that were new, in order: the closing note's transcript."""

    def install(self, values: dict[str, str] | None = None) -> None:
        """The team's namespace with its volumes, images from the Dockerfile, and the chart by helm."""
        self.make_team("volume-0", "volume-1")  # first: an operator for chosen namespaces gets its roles there
        project.install(self.cluster, VALUES | (values or {}))

    def make_team(self, inputs: str, cache: str) -> None:
        """The team's restricted namespace, with claims on these two volumes."""
        self.cluster.kubectl("create", "namespace", self.team)
        self.cluster.kubectl("label", "namespace", self.team, "pod-security.kubernetes.io/enforce=restricted")
        self.cluster.kubectl.apply([project.claim(INPUTS, self.team, inputs), project.claim(CACHE, self.team, cache)])

    def put_inputs(self, folder: Path) -> None:
        """Copy a folder's content onto the inputs volume."""
        volume = self.volume(INPUTS)
        shutil.copytree(folder, volume, dirs_exist_ok=True)
        for path in (volume, *volume.rglob("*")):  # pods are nobody special, and what was copied is root's own
            path.chmod(0o755 if path.is_dir() else 0o644)

    def volume(self, claim: str) -> Path:
        """Where a bound claim's files lie on this machine."""
        return project.volume(self.cluster, claim, self.team)

    def apply(self, run: Run) -> None:
        """`kubectl apply` of a run in the team's namespace."""
        self.cluster.kubectl("-n", self.team, "apply", "-f", "-", stdin=json.dumps(run))

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        """Merge `spec` into a run's spec."""
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl("-n", self.team, "patch", "qwen3finetune", name, "--type=merge", "-p", patch)

    def get(self, name: str) -> Run:
        """The run as the API server has it; its table line is remembered if it is new."""
        head, line = self.cluster.kubectl("-n", self.team, "get", "qwen3finetunes", name).strip().splitlines()
        lines = self.seen.setdefault(name, [head])
        if lines[-1].rsplit(maxsplit=1)[0] != line.rsplit(maxsplit=1)[0]:  # the age alone is no news
            lines.append(line)
        found: Run = self.cluster.kubectl.json("-n", self.team, "get", "qwen3finetune", name)
        return found

    def wait(self, name: str, fact: Callable[[Run], bool], what: str, timeout: float = 300) -> Run:
        """The run once `fact` is true of its status; a run that fails first is an error that shows all of it."""
        deadline = time.monotonic() + timeout
        while True:
            run = self.get(name)
            status = run.get("status", {})
            if fact(status):
                return run
            if status.get("phase") in ("Failed", "Succeeded") or time.monotonic() > deadline:
                raise AssertionError(f"{name}: waited for {what}, and it is\n{self.describe(name)}")
            time.sleep(0.5)

    def wait_phase(self, name: str, phase: str, timeout: float = 300) -> Run:
        """The run once it is in `phase`."""
        return self.wait(name, lambda status: status.get("phase") == phase, phase, timeout)

    def describe(self, name: str) -> str:
        """Everything that helps to understand a run that went wrong."""
        kubectl = self.cluster.kubectl
        words = ("-n", self.team)
        parts = [
            kubectl(*words, "get", "qwen3finetune", name, "-o", "yaml"),
            kubectl(*words, "get", "pods,jobs,pvc,events"),
            kubectl("-n", SYSTEM, "logs", "deployment/kit-qwen3-finetune", "--tail=40"),
        ]
        names = [pod["metadata"]["name"] for pod in self.pods(name)]
        logged = [pod for pod in names if kubectl.works(*words, "logs", pod, "--tail=1")]
        parts += [kubectl(*words, "logs", pod, "--tail=30") for pod in logged]
        return "\n".join([*self.seen.get(name, []), *parts])

    def pods(self, name: str, **labels: str) -> list[Any]:
        """The pods of a run that are there, narrowed by labels of our own group."""
        wanted = {"run": name, **labels}
        selector = ",".join(f"finetune.qwen3.io/{key}={value}" for key, value in wanted.items())
        pods: list[Any] = self.cluster.kubectl.json("-n", self.team, "get", "pods", "-l", selector)["items"]
        return pods

    def losses(self, name: str, claim: str | None = None) -> dict[int, float]:
        """Loss by step, as the attempts wrote it down; where a step was done twice, the later attempt's."""
        folder = self.volume(claim or f"{name}-output") / name / "attempts"
        found: dict[int, float] = {}
        for attempt in sorted(folder.iterdir(), key=lambda path: int(path.name)):
            for line in (attempt / "losses.jsonl").read_text().splitlines():
                row = json.loads(line)
                found[row["step"]] = row["loss"]
        return found


def finetune(name: str, **spec: Any) -> Run:
    """A small run on two nodes with one GPU each; `spec` overrides whole blocks."""
    return {
        "apiVersion": "finetune.qwen3.io/v1alpha1",
        "kind": "Qwen3FineTune",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "Volume", "path": "tiny"},
            "dataset": {"path": "huanhuan.json", "maxTokens": 128, "validation": {"fraction": 0.1}},
            "method": {"type": "LoRA", "lora": {"rank": 8, "alpha": 32}},
            "training": {
                "maxSteps": 12,
                "epochs": 100,
                "globalBatch": {"samples": 8},
                "learningRate": 1e-2,
                "precision": "Fp32",
            },
            "parallelism": {"nodes": 2, "gpusPerNode": 1, "strategy": "DDP"},
            "checkpoint": {"everySteps": 4, "keep": 2},
            "storage": {
                "inputs": {"claimName": INPUTS},
                "cache": {"claimName": CACHE},
                "output": {"size": "1Gi", "onDelete": "Delete"},
            },
            "resources": {"cpuPerGpu": "250m", "memoryPerGpu": "3Gi", "gpuMemory": "80Gi"},
            **spec,
        },
    }
