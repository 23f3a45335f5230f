"""What of an earlier attempt's end shows in the pods of the next one."""

import pytest

from finetune_contract import RunConfig
from finetune_operator import manifests
from finetune_operator.planning import with_host_memory
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import RecoveryStatus
from unit.manifests.objects import container_of, made, pod_of
from unit.planning.runs import run

GANG = run(parallelism={"nodes": 2, "gpusPerNode": 4}, resources={"memoryPerGpu": "64Gi"})


def worker_pod(wanted: Qwen3FineTune, config: RunConfig, avoided_nodes: tuple[str, ...]) -> dict[str, object]:
    objects = manifests.attempt_objects(wanted, config, Settings(), avoided_nodes=avoided_nodes)
    return pod_of(objects[-1])


def test_suspect_nodes_are_avoided_by_name_as_far_as_possible() -> None:
    pod = worker_pod(GANG, made(GANG).config, ("gpu-7", "gpu-3"))
    assert pod["affinity"] == {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchFields": [
                            {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-7"]},
                            {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-3"]},
                        ]
                    },
                }
            ]
        }
    }


def test_without_a_suspect_a_pod_has_no_affinity() -> None:
    everything = made(GANG)
    assert "affinity" not in everything.worker_pod
    assert "affinity" not in everything.prepare_pod


@pytest.mark.parametrize(("given", "expected"), [(None, "256Gi"), ("96Gi", "384Gi")])
def test_pods_get_the_host_memory_that_was_decided(given: str | None, expected: str) -> None:
    roomy = with_host_memory(GANG, RecoveryStatus(memory_per_gpu=given))
    resources = container_of(worker_pod(roomy, made(GANG).config, ()))["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == expected
    assert roomy.spec.resources.cpu_per_gpu == GANG.spec.resources.cpu_per_gpu
