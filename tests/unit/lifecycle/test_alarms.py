"""What people learn of indicators: at once in the figures, in a condition and an event when an alarm stands."""

import asyncio
import dataclasses

import pytest

from finetune_contract import Alarm, Indicator, Indicators, SlowestRank, TrackerReport, TrackerState
from finetune_operator.cli.screen import figures
from finetune_operator.lifecycle.progress import ALARM_SECONDS, progress_status
from finetune_operator.metrics import Metrics
from finetune_operator.observation import WorkerState
from finetune_operator.status import Condition, ConditionStatus, ConditionType
from support.fake_cluster import FakeCluster
from support.runs import START, attempt, body, preparation, progress, there, worker


def alarm(since: float, value: float = 0.25) -> Alarm:
    return Alarm(
        indicator=Indicator.COMMUNICATION, value=value, threshold=0.1, remedy="set larger buckets", since=since
    )


class Story:
    """A run whose first attempt trains."""

    def __init__(self) -> None:
        self.cluster = FakeCluster(body())
        self.cluster.preparation = preparation()
        self.cluster.now += 10
        self.look()
        self.cluster.attempts[1] = attempt(created_at=self.cluster.now)

    def says(self, seconds: float, step: int, *alarms: Alarm) -> None:
        """`seconds` later rank 0 says so."""
        self.cluster.now += seconds
        said = progress(1, step, at=self.cluster.now, alarms=alarms)
        seen = dataclasses.replace(self.cluster.attempts[1], progress=said, progress_seen_at=self.cluster.now)
        self.cluster.attempts[1] = seen
        self.look()

    def look(self) -> None:
        """A pass."""
        asyncio.run(self.cluster.one_pass())

    @property
    def healthy(self) -> Condition:
        return next(each for each in self.cluster.status.conditions if each.type is ConditionType.HEALTHY)


def test_an_alarm_is_seen_at_once_and_told_once_when_it_has_stood_for_long() -> None:
    story = Story()
    story.says(60, 1)
    assert (story.healthy.status, story.healthy.reason) == (ConditionStatus.TRUE, "NoAlarm")
    since = story.cluster.now
    story.says(ALARM_SECONDS - 1, 2, alarm(since))
    (shown,) = there(story.cluster.status.progress).alarms
    assert (shown.indicator, shown.value, shown.threshold, shown.standing) == ("Communication", "25%", "10%", False)
    assert story.healthy.status is ConditionStatus.TRUE
    assert "CommunicationAlarm" not in story.cluster.events
    # now it stands, and its value jitters at every look
    for count in range(20):
        story.says(60, 3 + count, alarm(since, value=0.2 + count / 100))
    assert (story.healthy.status, story.healthy.reason) == (ConditionStatus.FALSE, "Communication")
    assert "set larger buckets" in story.healthy.message
    assert story.cluster.events.count("CommunicationAlarm") == 1
    story.says(60, 50)
    assert story.healthy.status is ConditionStatus.TRUE


def test_an_alarm_goes_with_the_attempt_that_raised_it() -> None:
    story = Story()
    story.says(60, 1, alarm(START - 1000))
    assert story.healthy.status is ConditionStatus.FALSE
    failed = attempt(worker(0, WorkerState.FAILED, exit_code=137), worker(1, WorkerState.FAILED, exit_code=137))
    story.cluster.attempts[1] = failed
    story.cluster.now += 60
    story.look()
    assert (story.healthy.status, story.healthy.reason) == (ConditionStatus.UNKNOWN, "NotRunning")
    story.cluster.now += 60  # its workers have been heard out
    story.look()
    assert there(story.cluster.status.progress).alarms == ()


def test_a_look_without_news_writes_nothing() -> None:
    story = Story()
    story.says(60, 1, alarm(START))
    story.look()
    writes = len(story.cluster.writes)
    for _ in range(5):
        story.cluster.now += 1
        story.look()
    assert len(story.cluster.writes) == writes


def test_figures_stand_in_status_as_people_read_them() -> None:
    told = Indicators(
        samples_per_second=12.345, mfu_ratio=0.414, gpu_utilisation_ratio=0.93, memory_imbalance_ratio=1.0512,
        communication_ratio=0.251, data_wait_ratio=0.004, loss_trend_ratio=-0.031,
    )  # fmt: skip
    down = TrackerReport(state=TrackerState.DOWN, dropped=7, message="ConnectionError: refused")
    live = TrackerReport(state=TrackerState.LIVE, url="https://swanlab.example/run")
    imbalance = Alarm(indicator=Indicator.MEMORY_BALANCE, value=1.3, threshold=1.2, remedy="shard more", since=START)
    said = progress(
        1, 5, at=START, indicators=told, trackers={"wandb": down, "swanlab": live}, alarms=(imbalance,),
        slowest_rank=SlowestRank(rank=9, host="huanhuan-r1-1", ratio=1.417),
    )  # fmt: skip
    found = progress_status(said)
    assert found.slowest_rank == "rank 9 on huanhuan-r1-1: 1.42"
    assert (found.samples_per_second, found.mfu, found.gpu_utilisation) == ("12.3", "41%", "93%")
    assert (found.memory_imbalance, found.communication, found.data_wait) == ("1.05", "25%", "0%")
    assert found.loss_trend == "-3%"
    assert [(each.name, each.state, each.dropped, each.url) for each in found.trackers] == [
        ("swanlab", "Live", 0, "https://swanlab.example/run"),
        ("wandb", "Down", 7, None),
    ]
    assert (found.alarms[0].value, found.alarms[0].threshold) == ("1.30", "1.20")
    assert "MFU 41%  ! MemoryBalance 1.30" in figures(found)


def test_the_slowest_rank_is_named_with_its_node() -> None:
    names = ("huanhuan-r1-10-x7k2p", "huanhuan-r1-1-9fd4q")
    pods = [worker(index, name=name, node=f"gpu-{index}") for index, name in enumerate(names)]
    said = progress(1, 5, at=START, slowest_rank=SlowestRank(rank=9, host="huanhuan-r1-1", ratio=1.4))
    assert progress_status(said, attempt(*pods)).slowest_rank == "rank 9 on gpu-1: 1.40"


def test_a_straggler_s_ratio_is_no_share() -> None:
    slow = Alarm(indicator=Indicator.STRAGGLER, value=1.417, threshold=1.3, remedy="look at its node", since=START)
    (shown,) = progress_status(progress(1, 5, at=START, alarms=(slow,))).alarms
    assert (shown.value, shown.threshold) == ("1.42", "1.30")


@pytest.mark.parametrize(("standing", "count"), [(True, 1.0), (False, None)])
def test_standing_alarms_are_counted_over_all_runs(standing: bool, count: float | None) -> None:
    status = {"progress": {"alarms": [{"indicator": "Loss", "standing": standing}]}}
    metrics = Metrics(lambda: [{"status": status}, {"status": {}}, {}], clock=lambda: START, ticks=lambda: 0.0)
    assert metrics.registry.get_sample_value("qwen3_finetune_alarms", {"indicator": "Loss"}) == count
