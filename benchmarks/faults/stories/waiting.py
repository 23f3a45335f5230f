"""What keeps a run from starting. It waits, says for what, and goes on by itself when that is there."""

import json
from typing import Any

from case import Case, attempt_words, condition_words, story
from stage import GRACE_SECONDS

from harness import PAUSE_IMAGE
from support import volumes
from support.faults import HOOKED
from support.operator_process import OperatorProcess

PREPARED, RUNNING = condition_words("Prepared"), condition_words("Running")
PODS = {
    "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": HOOKED["trainer.environment.PYTHONPATH"]},
    "sharedMemory": "1Gi",
    "graceSeconds": GRACE_SECONDS,
    "prepareCpu": "250m",
    "prepareMemory": "2Gi",
}


def trained_by(case: Case, image: str, policy: str) -> None:
    """The story's run belongs to a team of its own, whose operator gives this image to its pods."""
    case.kit = case.stage.another_team(case.name)
    settings = {"image": {"reference": image, "pullPolicy": policy}, "pods": PODS}
    folder = case.stage.work / f"{case.name}-operator"
    operator = OperatorProcess(folder, case.stage.cluster.kubeconfig, (case.name,), settings)
    operator.start()
    case.finally_do(operator.kill)
    case.finally_do(lambda: case.stage.cluster.kubectl("delete", "namespace", case.name, "--wait=false"))


@story("The image's name is no image's name")
def bad_image(case: Case) -> None:
    trained_by(case, "Trainer:latest:oops", "IfNotPresent")
    case.inject(case.apply)
    case.named(PREPARED, "InvalidImageName.*Trainer:latest:oops")
    case.waited()
    case.row.result, case.row.is_result_right = "waits for the admin", True


@story("The registry cannot be reached; then the image is there")
def image_pull(case: Case) -> None:
    image = "registry.invalid/qwen3-finetune-trainer:1"
    trained_by(case, image, "IfNotPresent")
    case.inject(case.apply)
    case.named(PREPARED, f"ImagePull.*{image}")
    case.waited()
    containerd = case.stage.cluster.node.containerd
    containerd.ctr("images", "tag", case.stage.trainer_image, image)
    case.finally_do(lambda: containerd.ctr("images", "remove", image))
    case.succeeded(restarts=0)


@story("No node has the GPUs; then one has")
def unschedulable(case: Case) -> None:
    resource = "faults.test/late"
    run = case.run()
    run["spec"]["resources"]["gpuResource"] = resource
    case.inject(case.apply)
    case.named(RUNNING, f"Unschedulable.*Insufficient {resource}")
    case.waited()
    case.stage.cluster.node.set_gpus(1, resource)
    case.succeeded(restarts=0)


@story("No node ever has the GPUs, and the run has a deadline", long=True)
def never_scheduled(case: Case) -> None:
    run = case.run()
    run["spec"]["resources"]["gpuResource"] = "faults.test/never"
    run["spec"]["scheduling"] = {"preRunningDeadlineSeconds": 60}
    case.inject(case.apply)
    case.named(RUNNING, "Unschedulable.*Insufficient faults.test/never")
    case.failed("preRunningDeadlineSeconds: 60")
    case.row.decision, case.row.is_decision_right = "GiveUp after the deadline", True


@story("The namespace's quota is used up; then it is raised")
def quota(case: Case) -> None:
    case.kit = case.stage.quota_kit
    hard = {"hard": {"requests.nvidia.com/gpu": "0"}}
    metadata = {"name": "gpus", "namespace": case.kit.team}
    quota: dict[str, Any] = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": hard}
    case.stage.cluster.kubectl.apply(quota)
    case.inject(case.apply)
    case.named(RUNNING, "QuotaExceeded.*exceeded quota: gpus")
    case.waited()
    case.kubectl("delete", "resourcequota", "gpus")
    case.succeeded(restarts=0)


@story("The claim that the run names is not there; then it is made")
def missing_claim(case: Case) -> None:
    run = case.run()
    run["spec"]["storage"]["cache"] = {"claimName": f"{case.name}-cache"}
    case.inject(case.apply)
    case.named(PREPARED, "ClaimNotFound.*spec.storage.cache.claimName")
    case.waited()
    case.claim("cache")
    case.succeeded(restarts=0)


@story("The volume behind the output's claim is lost; then it is back")
def lost_volume(case: Case) -> None:
    case.claim("output")
    run = case.run()
    run["spec"]["storage"]["output"] = {"claimName": f"{case.name}-output"}
    kubectl = case.stage.cluster.kubectl
    claim = kubectl.json("-n", case.kit.team, "get", "pvc", f"{case.name}-output")
    volume = kubectl.json("get", "pv", claim["spec"]["volumeName"])
    name = volume["metadata"]["name"]
    kubectl("delete", "pv", name, "--wait=false")
    kubectl("patch", "pv", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    kubectl.wait("-n", case.kit.team, f"pvc/{case.name}-output", "--for=jsonpath={.status.phase}=Lost", timeout=30)
    case.inject(case.apply)
    case.named(RUNNING, f"{case.name}-output.*lost")
    case.waited()
    volume["metadata"] = {"name": name, "labels": volume["metadata"]["labels"]}
    volume["spec"]["claimRef"].pop("resourceVersion")
    kubectl.apply({key: volume[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    case.succeeded(restarts=0)


@story("The Secret that the run names is not there; then it is made")
def missing_secret(case: Case) -> None:
    run = case.run()
    secret = {"name": f"{case.name}-token", "key": "token"}
    mlflow = {"trackingUri": "http://127.0.0.1:9", "experiment": "faults", "tokenSecret": secret}
    run["spec"]["tracking"] = {"mlflow": mlflow}
    case.inject(case.apply)
    case.named(RUNNING, "SecretNotFound.*spec.tracking.mlflow.tokenSecret.*kubectl create secret")
    case.waited()
    case.kubectl("create", "secret", "generic", secret["name"], f"--from-literal={secret['key']}=none")
    case.finally_do(lambda: case.kubectl("delete", "secret", secret["name"]))
    case.succeeded(restarts=0)


@story("The output's volume cannot be mounted (it is read-only, and needs another owner); then it can")
def volume_unmountable(case: Case) -> None:
    folder = case.claim("output")
    run = case.run()
    run["spec"]["storage"]["output"] = {"claimName": f"{case.name}-output"}
    with volumes.read_only(folder):
        case.inject(case.apply)
        case.named(RUNNING, "read-only file system", timeout=90)
        case.waited()
    case.succeeded(restarts=0)


@story("A Job of the attempt's name is there, and is not ours; then it is gone")
def foreign_job(case: Case) -> None:
    container = {"name": "main", "image": PAUSE_IMAGE}
    pod = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{case.name}-r1", "namespace": case.kit.team},
        "spec": {"suspend": True, "template": pod},
    }
    case.stage.cluster.kubectl("create", "-f", "-", stdin=json.dumps(job))
    case.inject(case.apply)
    case.named(RUNNING, f"NameTaken.*{case.name}-r1.*exists and is not this run")
    case.waited()
    case.kubectl("delete", "job", f"{case.name}-r1")
    case.succeeded(restarts=0)


@story("A pod of higher priority takes the GPU; then it is gone")
def preempted(case: Case) -> None:
    resource = "faults.test/wanted"
    case.stage.cluster.node.set_gpus(1, resource)
    case.run()["spec"]["resources"]["gpuResource"] = resource
    case.start_and_hold()
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
    limits = {"limits": {resource: 1}}
    container = {"name": "main", "image": PAUSE_IMAGE, "imagePullPolicy": "Never", "resources": limits}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "urgent", "namespace": "default"},
        "spec": {"priorityClassName": "urgent", "terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    kubectl = case.stage.cluster.kubectl
    kubectl.apply({**priority, "metadata": {"name": "urgent"}})
    case.inject(lambda: kubectl.apply(pod))
    case.named(attempt_words(), "Disruption.*PreemptionByScheduler")
    case.decided("RetryUncounted")
    case.until(lambda status: status.get("phase") == "Queued", "phase Queued", 60)
    kubectl("delete", "pod", "urgent", "-n", "default")
    case.succeeded(restarts=1)
