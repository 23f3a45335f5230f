"""What every pod must be, whoever wrote the run."""

from typing import Any

import pytest

from finetune_contract.paths import (
    HUB_TOKEN_ENV,
    PUSH_TOKEN_ENV,
    TERMINATION_FILE_ENV,
    dataset_access_key_env,
    dataset_secret_key_env,
    dataset_token_env,
)
from finetune_operator.settings import Image, Pods, Settings
from unit.manifests.objects import Made, container_of, environment_of, made
from unit.planning.runs import EXAMPLES, UID, example, run

RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim"}
MIX = {
    "mix": [
        {"path": "rows.json"},
        {"source": "HuggingFace", "id": "team/rows", "tokenSecret": {"name": "data-hub", "key": "token"}},
    ],
    "validation": {
        "source": "S3",
        "url": "s3://bucket/held-out.jsonl",
        "s3": {"accessKeySecret": {"name": "s3", "key": "id"}, "secretKeySecret": {"name": "s3", "key": "secret"}},
    },
}
GATED = run(
    model={"id": "Qwen/Qwen3-8B", "tokenSecret": {"name": "hub", "key": "token"}},
    dataset=MIX,
    tracking={
        "swanlab": {"project": "qwen3", "apiKeySecret": {"name": "swanlab", "key": "apiKey"}},
        "wandb": {"project": "qwen3", "apiKeySecret": {"name": "wandb", "key": "apiKey"}},
        "mlflow": {
            "trackingUri": "https://mlflow.example",
            "experiment": "qwen3",
            "tokenSecret": {"name": "mlflow", "key": "token"},
        },
    },
    output={"push": {"repository": "me/huanhuan", "tokenSecret": {"name": "push", "key": "token"}}},
)
RUNS = [*(example(path) for path in sorted(EXAMPLES.glob("*.yaml"))), GATED]


@pytest.fixture(params=RUNS, ids=lambda each: each.metadata.name)
def everything(request: pytest.FixtureRequest) -> Made:
    return made(request.param)


def pods(everything: Made) -> list[dict[str, Any]]:
    pushing = [everything.push_pod] if everything.push else []
    return [everything.prepare_pod, everything.worker_pod, *pushing]


def test_pods_meet_pod_security_restricted(everything: Made) -> None:
    for pod in pods(everything):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container_of(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "serviceAccountName"} & pod.keys()
        assert not any("hostPort" in port for port in container_of(pod).get("ports", []))
        assert {source for volume in pod["volumes"] for source in volume if source != "name"} <= RESTRICTED_VOLUMES


def test_pods_hold_no_credentials_and_are_never_restarted_in_place(everything: Made) -> None:
    for pod in pods(everything):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["restartPolicy"] == "Never"
    for job in everything.of_kind("Job"):
        assert job["spec"]["backoffLimit"] == 0
        assert "suspend" not in job["spec"], "a queue owns that field"


def test_every_mount_has_its_volume_and_every_local_volume_a_limit(everything: Made) -> None:
    for pod in pods(everything):
        mounts = {mount["name"] for mount in container_of(pod)["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)


def test_how_a_container_ended_reaches_its_status(everything: Made) -> None:
    for pod in pods(everything):
        container = container_of(pod)
        assert container["terminationMessagePolicy"] == "File"
        assert environment_of(pod)[TERMINATION_FILE_ENV] == container["terminationMessagePath"]


def test_caches_and_home_are_writable(everything: Made) -> None:
    for pod in pods(everything):
        writable = {mount["mountPath"] for mount in container_of(pod)["volumeMounts"] if not mount.get("readOnly")}
        for name, value in environment_of(pod).items():
            if name.endswith(("_DIR", "_HOME", "_CACHE")) or name in {"HOME", "TMPDIR"}:
                assert any(f"{value}/".startswith(f"{path}/") for path in writable), name


def test_requests_are_limits(everything: Made) -> None:
    for pod in pods(everything):
        resources = container_of(pod)["resources"]
        assert resources["requests"] == resources["limits"]
    assert "nvidia.com/gpu" in container_of(everything.worker_pod)["resources"]["limits"]
    assert "nvidia.com/gpu" not in container_of(everything.prepare_pod)["resources"]["limits"]


def test_a_push_takes_no_gpu_and_reads_nothing_but_what_it_pushes() -> None:
    everything = made(GATED)
    container = container_of(everything.push_pod)
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi"}
    assert container["command"][1:3] == ["-m", "finetune_trainer.push"]
    mounts = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"config": True, "output": True, "temporary": False}


def test_the_token_that_may_write_is_in_the_pod_that_pushes_and_nowhere_else() -> None:
    everything = made(GATED)
    secret = {"secretKeyRef": {"name": "push", "key": "token"}}
    pushing = environment_of(everything.push_pod)
    assert {name: value for name, value in pushing.items() if "secretKeyRef" in value} == {PUSH_TOKEN_ENV: secret}
    for pod in (everything.prepare_pod, everything.worker_pod):
        assert PUSH_TOKEN_ENV not in environment_of(pod)
        assert secret not in environment_of(pod).values()
    others = [each for each in everything.objects if each is not everything.push[-1]]
    assert "'push', 'key'" not in str(others)
    assert all("tokenSecret" not in str(each["data"]) for each in everything.of_kind("ConfigMap"))


def test_a_run_that_pushes_nothing_has_no_pod_for_it() -> None:
    assert made(run()).push == []


def test_training_cannot_write_what_other_runs_read() -> None:
    mounts = {mount["name"]: mount for mount in container_of(made(RUNS[1]).worker_pod)["volumeMounts"]}
    assert mounts["cache"]["readOnly"]
    assert mounts["inputs"]["readOnly"]
    assert mounts["config"]["readOnly"]
    assert "readOnly" not in mounts["output"]
    preparing = {mount["name"]: mount for mount in container_of(made(RUNS[1]).prepare_pod)["volumeMounts"]}
    assert "readOnly" not in preparing["cache"]
    assert "output" not in preparing


def test_each_secret_is_where_it_is_needed_and_nowhere_else() -> None:
    everything = made(GATED)
    preparing, training = environment_of(everything.prepare_pod), environment_of(everything.worker_pod)
    assert preparing[HUB_TOKEN_ENV] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert preparing[dataset_token_env(1)] == {"secretKeyRef": {"name": "data-hub", "key": "token"}}
    assert preparing[dataset_access_key_env(2)] == {"secretKeyRef": {"name": "s3", "key": "id"}}
    assert preparing[dataset_secret_key_env(2)] == {"secretKeyRef": {"name": "s3", "key": "secret"}}
    assert training["SWANLAB_API_KEY"] == {"secretKeyRef": {"name": "swanlab", "key": "apiKey"}}
    assert training["WANDB_API_KEY"] == {"secretKeyRef": {"name": "wandb", "key": "apiKey"}}
    assert training["MLFLOW_TRACKING_TOKEN"] == {"secretKeyRef": {"name": "mlflow", "key": "token"}}
    opening = {name for name, value in preparing.items() if "secretKeyRef" in value}
    assert len(opening) == 4
    assert not opening & training.keys()
    assert "SWANLAB_API_KEY" not in preparing
    plain = made(run(tracking={"swanlab": {"project": "qwen3"}}))
    assert "SWANLAB_API_KEY" not in environment_of(plain.worker_pod)
    assert not opening & environment_of(plain.prepare_pod).keys()


def test_ranks_find_the_first_node_of_their_own_attempt() -> None:
    two_nodes = run("huanhuan", parallelism={"nodes": 2, "gpusPerNode": 4})
    everything = made(two_nodes, attempt=3)
    environment = environment_of(everything.worker_pod)
    (service,) = everything.of_kind("Service")
    job = everything.attempt[-1]
    assert job["metadata"]["name"] == "huanhuan-r3"
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    assert environment["PET_NNODES"] == "2"
    assert environment["PET_NPROC_PER_NODE"] == "4"
    assert environment["PET_MASTER_ADDR"] == f"huanhuan-r3-0.{service['metadata']['name']}"
    assert environment["PET_NODE_RANK"] == {
        "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
    }
    assert everything.worker_pod["subdomain"] == service["metadata"]["name"]
    assert environment["PET_MASTER_PORT"] in {str(port["port"]) for port in service["spec"]["ports"]}
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert container_of(everything.worker_pod)["resources"]["limits"] == {
        "cpu": "32",
        "memory": "256Gi",
        "nvidia.com/gpu": "4",
    }


def test_the_admins_environment_wins_over_defaults_but_not_over_the_rendezvous() -> None:
    wanted = {"NCCL_DEBUG": "INFO", "NCCL_IB_HCA": "mlx5", "PET_NNODES": "9", TERMINATION_FILE_ENV: "/nowhere"}
    everything = made(run(), Settings(pods=Pods(environment=wanted)))
    training, preparing = environment_of(everything.worker_pod), environment_of(everything.prepare_pod)
    assert (training["NCCL_DEBUG"], training["NCCL_IB_HCA"]) == ("INFO", "mlx5")
    assert (training["PET_NNODES"], training[TERMINATION_FILE_ENV]) == ("1", "/dev/termination-log")
    assert preparing["NCCL_IB_HCA"] == "mlx5"


def test_the_admins_pods_settings_arrive() -> None:
    pods_settings = Pods(
        shared_memory="16Gi",
        grace_seconds=120,
        user_id=1234,
        group_id=5678,
        runtime_class_name="nvidia",
        prepare_cpu="4",
        prepare_memory="24Gi",
    )
    image = Image(reference="registry.example/trainer:1", pull_policy="Always", pull_secrets=("pull",))
    everything = made(run(), Settings(pods=pods_settings, image=image))
    for pod in pods(everything):
        assert pod["runtimeClassName"] == "nvidia"
        assert pod["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["securityContext"]["runAsUser"] == 1234
        assert pod["securityContext"]["runAsGroup"] == pod["securityContext"]["fsGroup"] == 5678
        assert container_of(pod)["image"] == "registry.example/trainer:1"
        assert container_of(pod)["imagePullPolicy"] == "Always"
    assert everything.worker_pod["terminationGracePeriodSeconds"] == 120 == everything.config.grace_seconds
    shared = [each for each in everything.worker_pod["volumes"] if each["name"] == "shared-memory"]
    assert shared[0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert container_of(everything.worker_pod)["resources"]["limits"]["memory"] == "64Gi", "shared memory is inside"
    assert container_of(everything.prepare_pod)["resources"]["limits"] == {"cpu": "4", "memory": "24Gi"}


def test_results_outlive_the_run_unless_asked_otherwise() -> None:
    def owners(**storage: Any) -> dict[str, bool]:
        claims = made(run(storage=storage)).of_kind("PersistentVolumeClaim")
        return {claim["metadata"]["name"]: "ownerReferences" in claim["metadata"] for claim in claims}

    assert owners() == {"example-cache": True, "example-output": False}
    assert owners(output={"onDelete": "Delete"}) == {"example-cache": True, "example-output": True}
    assert owners(cache={"claimName": "models"}, output={"claimName": "results"}) == {}


def test_everything_but_a_kept_claim_is_owned_by_the_run() -> None:
    for each in made(run(storage={"output": {"onDelete": "Delete"}})).objects:
        assert each["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "finetune.qwen3.io/v1alpha1",
                "kind": "Qwen3FineTune",
                "name": "example",
                "uid": UID,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]


@pytest.mark.parametrize(("nodes", "mode"), [(1, "ReadWriteOnce"), (2, "ReadWriteMany")])
def test_only_several_nodes_need_a_shared_volume(nodes: int, mode: str) -> None:
    claims = made(run(parallelism={"nodes": nodes})).of_kind("PersistentVolumeClaim")
    assert [claim["spec"]["accessModes"] for claim in claims] == [[mode], [mode]]
