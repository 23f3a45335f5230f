"""Numbers that the schema allows and nobody means: an answer at once, and a status that the API server takes."""

import asyncio
import json
import time
from typing import Any

import pytest

from finetune_operator import manifests
from finetune_operator.planning import Plan, make_plan, run_config
from finetune_operator.settings import Limits, Settings
from finetune_operator.status import ConditionType, Phase
from support.fake_cluster import FakeCluster
from support.runs import body, preparation, prepared, run, there

ETCD_BYTES = 1_500_000
"""What etcd takes of one object by default."""
MANY_NODES: dict[str, Any] = {
    "parallelism": {"nodes": 1000, "gpusPerNode": 8},
    "training": {"globalBatch": {"samples": 8000}},
}
ABSURD: dict[str, dict[str, Any]] = {
    "nodes": MANY_NODES,
    "checkpoints": {"checkpoint": {"everySteps": 1, "keep": 10_000}},
    "checkpoints that the schema allows": {"checkpoint": {"everySteps": 1, "keep": 100}},
    "epochs": {"training": {"epochs": 1000}},
    "batch": {"training": {"globalBatch": {"samples": 65_536}}},
}


@pytest.mark.parametrize("spec", ABSURD.values(), ids=ABSURD.keys())
def test_it_is_planned_or_refused_with_its_field_within_a_second(spec: dict[str, Any]) -> None:
    cluster = FakeCluster(body(**spec))
    cluster.settings = Settings(limits=Limits(max_nodes=1024))
    began = time.process_time()
    for _ in range(4):
        asyncio.run(cluster.one_pass())
        cluster.preparation = preparation()
        cluster.now += 20
    assert time.process_time() - began < 4
    status = cluster.status
    if status.phase is Phase.FAILED:
        assert "spec." in next(each.message for each in status.conditions if each.type is ConditionType.PLANNED)
    else:
        assert cluster.started == [1]
    assert len(json.dumps(cluster.body)) < ETCD_BYTES / 10


def test_the_default_limits_refuse_a_thousand_nodes() -> None:
    cluster = FakeCluster(body(**MANY_NODES))
    asyncio.run(cluster.one_pass())
    assert "1000 is more than the 64 allowed here" in there(cluster.status.failure).message


def test_a_thousand_nodes_are_one_job_and_its_objects_stay_small() -> None:
    wanted, found = run(**MANY_NODES), prepared()
    plan = make_plan(wanted, model=found.model, dataset=found.dataset, gpu_memory_bytes=None)
    assert isinstance(plan, Plan)
    cluster = FakeCluster(body())
    asyncio.run(cluster.one_pass())
    cluster.preparation = preparation()
    asyncio.run(cluster.one_pass())
    config = run_config(
        wanted, plan, there(cluster.status.preparation), manifests.pod_locations(wanted),
        model_revision=None, attempt=1, grace_seconds=300,
    )  # fmt: skip
    objects = manifests.attempt_objects(wanted, config, Settings())
    job = objects[-1]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1000, 1000)
    assert all(len(json.dumps(each)) < 100_000 for each in objects)


def test_two_runs_on_one_volume_have_folders_of_their_own() -> None:
    """And a namesake is of another namespace, whose claims are others."""
    storage = {"output": {"claimName": "shared"}}
    first, second = run(storage=storage), run(storage=storage)
    second = second.model_copy(update={"metadata": second.metadata.model_copy(update={"name": "second"})})
    folders = {manifests.pod_locations(each).output_dir for each in (first, second)}
    assert len(folders) == 2
    assert {manifests.output_claim_name(each) for each in (first, second)} == {"shared"}
