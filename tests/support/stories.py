"""Chapters that many runs have in common, told on a real control plane with a played kubelet."""

import time
from typing import Any

from finetune_contract import Outcome, PrepareOutcome, PushOutcome
from finetune_operator import names
from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import PODS, RUNS
from support import runs
from support.control import Control

NODES = 2


def now() -> float:
    """Unix seconds."""
    return time.time()


def make_run(control: Control, namespace: str, name: str = "huanhuan", **spec: Any) -> str:
    """A run on two nodes; keyword arguments are blocks of its spec. Returns its name."""
    return control.do(new_run(control, namespace, name, **spec))


async def new_run(control: Control, namespace: str, name: str = "huanhuan", **spec: Any) -> str:
    """A run on two nodes; keyword arguments are blocks of its spec. Returns its name."""
    wanted = {
        "model": {"id": "Qwen/Qwen3-8B"},
        "dataset": {"path": "huanhuan.json"},
        "parallelism": {"nodes": NODES, "gpusPerNode": 1},
        "resources": {"gpuMemory": "80Gi"},
        "storage": {"output": {"onDelete": "Delete"}},
    }
    await control.new(RUNS, namespace, {"metadata": {"name": name}, "spec": wanted | spec})
    return name


def preparation_pod(control: Control, namespace: str, name: str) -> Object:
    """The preparation's pod, once it is there."""
    selector = f"{names.RUN_LABEL}={name},{names.ROLE_LABEL}={names.PREPARE_ROLE}"
    return control.wait("the preparation's pod", lambda: _alive(control, namespace, selector))[0]


def prepare(control: Control, namespace: str, name: str, outcome: PrepareOutcome | None = None) -> None:
    """The preparation runs and ends, well unless `outcome` says otherwise."""
    pod = preparation_pod(control, namespace, name)
    control.do(control.kubelet.run(pod))
    control.do(control.kubelet.end(pod, outcome or runs.prepared()))


def push_pod(control: Control, namespace: str, name: str, number: int) -> Object:
    """The pod of a push, once it is there."""
    selector = f"{names.RUN_LABEL}={name},{names.PUSH_LABEL}={number}"
    return control.wait(f"the pod of push {number}", lambda: _alive(control, namespace, selector))[0]


def push(control: Control, namespace: str, name: str, number: int, outcome: PushOutcome) -> None:
    """Push `number` runs and ends with `outcome`."""
    pod = push_pod(control, namespace, name, number)
    control.do(control.kubelet.run(pod))
    control.do(control.kubelet.end(pod, outcome))


def worker_pods(control: Control, namespace: str, name: str, attempt: int, nodes: int = NODES) -> list[Object]:
    """The pods of an attempt, once all of them are there."""
    selector = f"{names.RUN_LABEL}={name},{names.ATTEMPT_LABEL}={attempt}"

    def complete() -> list[Object]:
        pods = _alive(control, namespace, selector)
        return pods if len(pods) == nodes else []

    return control.wait(f"{nodes} pods of attempt {attempt}", complete)


def worker_pod(control: Control, namespace: str, name: str, attempt: int, index: int) -> Object:
    """One worker of an attempt."""
    return worker_pods(control, namespace, name, attempt)[index]


def start_workers(
    control: Control, namespace: str, name: str, attempt: int, address: str = "127.0.0.1", nodes: int = NODES
) -> list[Object]:
    """Every worker of the attempt runs; rank 0 answers at `address`, if anything does."""
    pods = worker_pods(control, namespace, name, attempt, nodes)
    for index, pod in enumerate(pods):
        control.do(control.kubelet.run(pod, address if index == 0 else "127.0.0.1"))
    return pods


def wait_running(control: Control, namespace: str, name: str) -> None:
    """Returns when the operator has seen every worker of an attempt run."""

    def is_seen() -> bool:
        return any("runningSince" in attempt for attempt in control.status(namespace, name).get("attempts", ()))

    control.wait("every worker is seen to run", is_seen)


def end_workers(
    control: Control, namespace: str, name: str, attempt: int, outcome: Outcome, nodes: int = NODES
) -> None:
    """Every worker of the attempt ends with `outcome`."""
    for pod in worker_pods(control, namespace, name, attempt, nodes):
        control.do(control.kubelet.end(pod, outcome))


def _alive(control: Control, namespace: str, selector: str) -> list[Object]:
    pods = control.do(control.kubelet.pods(namespace, selector))
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def pod_count(control: Control, namespace: str, name: str) -> int:
    """Pods of the run, whatever they do."""
    return len(control.children(PODS, namespace, name))
