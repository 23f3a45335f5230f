"""One pass: what it writes, in which order, and what it leaves alone."""

import asyncio

from finetune_operator.reconcile import PassResult
from finetune_operator.settings import Limits, Settings
from finetune_operator.status import Condition, ConditionStatus, ConditionType, Phase
from support.fake_cluster import FakeCluster
from support.runs import body, preparation


def passed(cluster: FakeCluster) -> PassResult:
    return asyncio.run(cluster.one_pass())


def planned(cluster: FakeCluster) -> Condition:
    return next(each for each in cluster.status.conditions if each.type is ConditionType.PLANNED)


def running_cluster() -> FakeCluster:
    """A run whose first attempt has been started."""
    cluster = FakeCluster(body())
    passed(cluster)
    cluster.preparation = preparation()
    passed(cluster)
    passed(cluster)
    return cluster


def test_the_status_is_written_before_anything_is_made() -> None:
    cluster = FakeCluster(body())
    result = passed(cluster)
    assert cluster.writes == ["status", "start preparation"]
    assert result.was_written
    assert result.next_look_seconds == cluster.settings.resync_seconds, "the preparation's end is an event"


def test_second_pass_writes_nothing() -> None:
    cluster = running_cluster()
    writes = list(cluster.writes)
    assert not passed(cluster).was_written
    assert cluster.writes == writes


def test_every_mistake_of_a_spec_is_told_at_once() -> None:
    cluster = FakeCluster(body(training={"epoch": 3, "learningRate": -1}, parallelism={"nodes": 0}))
    result = passed(cluster)
    condition = planned(cluster)
    assert (cluster.status.phase, condition.reason) == (Phase.FAILED, "InvalidSpec")
    for field in ("spec.training.epoch", "spec.training.learningRate", "spec.parallelism.nodes"):
        assert field in condition.message
    assert cluster.writes == ["status"]
    assert cluster.events == ["PlanRefused", "Failed"]
    assert result.next_look_seconds is None
    assert not passed(cluster).was_written


def test_a_spec_that_breaks_under_way_leaves_the_attempt_alone_and_goes_on_when_mended() -> None:
    cluster = running_cluster()
    good = cluster.body["spec"]
    cluster.body["spec"] = good | {"epochs": 3}
    passed(cluster)
    assert (cluster.status.phase, list(cluster.attempts)) == (Phase.FAILED, [1])
    cluster.body["spec"] = good
    passed(cluster)
    assert cluster.status.phase is Phase.STARTING
    assert planned(cluster).status is ConditionStatus.TRUE


def test_a_name_that_is_too_long_is_a_mistake_like_others() -> None:
    cluster = FakeCluster(body())
    cluster.body["metadata"]["name"] = "n" * 60
    passed(cluster)
    assert "metadata.name" in planned(cluster).message


def test_a_resource_that_is_being_deleted_is_left_alone() -> None:
    cluster = running_cluster()
    cluster.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.attempts.clear()
    writes = list(cluster.writes)
    assert passed(cluster).next_look_seconds is None
    assert cluster.writes == writes


def test_a_run_beyond_the_limits_is_refused() -> None:
    cluster = FakeCluster(body(nodes=128, training={"globalBatch": {"samples": 128}}))
    passed(cluster)
    assert planned(cluster).reason == "LimitExceeded"
    assert cluster.preparation is None


PUSH = {"push": {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}}


def test_a_push_that_the_admin_forbids_is_refused_before_anything_is_started() -> None:
    cluster = FakeCluster(body(output=PUSH))
    cluster.settings = Settings(limits=Limits(push_hubs=()))
    passed(cluster)
    assert planned(cluster).reason == "LimitExceeded"
    assert "spec.output.push.hub" in planned(cluster).message
    assert cluster.preparation is None


def test_a_push_that_is_forbidden_under_way_does_not_end_the_training() -> None:
    cluster = running_cluster()
    cluster.settings = Settings(limits=Limits(push_hubs=()))
    cluster.body["spec"] = cluster.body["spec"] | {"output": PUSH}
    cluster.attempts.clear()  # lost: the run is planned again for the next one
    passed(cluster)
    passed(cluster)
    assert cluster.status.phase is Phase.STARTING
    assert cluster.started == [1, 2]
