"""The resource is deleted, or its spec edited, at every moment of a run's life."""

import asyncio
from typing import Any

import pytest

from finetune_operator.status import TERMINAL_PHASES, Phase
from support.fake_cluster import FakeCluster
from support.runs import body
from unit.reconcile.test_tampering import MAX_PASSES, moved_on

PASSES = 16
"""Of the whole life: see `test_every_phase_is_among_them`."""


def lived(cluster: FakeCluster, passes: int) -> None:
    for _ in range(passes):
        asyncio.run(cluster.one_pass())
        cluster.now += 20
        moved_on(cluster)


def edit(cluster: FakeCluster, spec: dict[str, Any]) -> None:
    metadata = cluster.body["metadata"] | {"generation": cluster.body["metadata"]["generation"] + 1}
    cluster.body = cluster.body | {"metadata": metadata, "spec": cluster.body["spec"] | spec}


def test_every_phase_is_among_them() -> None:
    cluster, phases = FakeCluster(body()), []
    for _ in range(PASSES):
        lived(cluster, 1)
        phases.append(cluster.status.phase)
    assert {Phase.PREPARING, Phase.STARTING, Phase.RUNNING, Phase.RESTARTING, Phase.SUCCEEDED} <= set(phases)


@pytest.mark.parametrize("passes", range(PASSES))
def test_a_run_that_is_being_deleted_is_left_alone_in_every_phase(passes: int) -> None:
    cluster = FakeCluster(body())
    lived(cluster, passes)
    cluster.body = cluster.body | {"metadata": cluster.body["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    writes, events = list(cluster.writes), list(cluster.events)
    cluster.attempts.clear()
    for _ in range(3):
        assert asyncio.run(cluster.one_pass()).next_look_seconds is None
        cluster.now += 1000
    assert (cluster.writes, cluster.events) == (writes, events)


EDITS: dict[str, dict[str, Any]] = {
    "another shape": {"parallelism": {"nodes": 2, "gpusPerNode": 2}, "training": {"epochs": 1}},
    "a limit broken": {"parallelism": {"nodes": 1000}, "training": {"globalBatch": {"samples": 1000}}},
    "no sense": {"training": {"epoch": 3}},
    "another dataset": {"dataset": {"path": "other.json"}},
    "other objects": {"output": {"mergeAdapter": True}},
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("passes", range(0, PASSES, 2))
def test_an_edit_in_any_phase_ends_in_the_old_end_or_in_a_reason(name: str, passes: int) -> None:
    """The CRD forbids such edits once a run has started; whoever gets around it must not wedge it."""
    cluster = FakeCluster(body())
    lived(cluster, passes)
    before = cluster.status
    edit(cluster, EDITS[name])
    for _ in range(MAX_PASSES):
        lived(cluster, 1)
        if cluster.status.phase in TERMINAL_PHASES:
            break
    after = cluster.status
    assert after.phase in TERMINAL_PHASES
    if before.phase in TERMINAL_PHASES:
        assert (after.phase, after.attempts) == (before.phase, before.attempts)
    if after.phase is Phase.FAILED:
        refused = [each.message for each in after.conditions if each.status == "False" and "spec." in each.message]
        assert refused, "what is wrong with the spec is told by its field"
