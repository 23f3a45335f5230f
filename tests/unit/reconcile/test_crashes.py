"""The operator's process may end after every single write; what it comes to is the same."""

import asyncio
import dataclasses
from typing import Any

import pytest

from finetune_contract import ExitCode
from finetune_operator.observation import Attempt, Push, WorkerState
from finetune_operator.status import Phase, Status
from support.fake_cluster import CrashError, FakeCluster
from support.runs import (
    STEPS,
    body,
    done_outcome,
    failed_outcome,
    failed_push,
    preempted_outcome,
    preparation,
    progress,
    pushed_outcome,
    there,
    worker,
)

MAX_PASSES = 80


def moved_on(cluster: FakeCluster) -> None:
    """The world's answer to what is there: a failing preparation, a disruption, a crash, a suspension, an end, and a
    hub that answers the second push."""
    if cluster.preparation is not None and cluster.preparation.state is WorkerState.WAITING:
        created_at = cluster.preparation.created_at
        if cluster.status.preparation_failures:
            cluster.preparation = preparation(created_at=created_at)
        else:
            cluster.preparation = preparation(WorkerState.FAILED, exit_code=1, created_at=created_at)
    for number, attempt in cluster.attempts.items():
        cluster.attempts[number] = _attempt_moved_on(cluster, attempt)
    for number, push in cluster.pushes.items():
        cluster.pushes[number] = _push_moved_on(push)


def _push_moved_on(push: Push) -> Push:
    if push.state is WorkerState.WAITING:
        return dataclasses.replace(push, state=WorkerState.RUNNING)
    if push.state is not WorkerState.RUNNING:
        return push
    if push.number == 1:
        lost = failed_push(ExitCode.INFRASTRUCTURE, "HubUnreachable")
        return dataclasses.replace(push, state=WorkerState.FAILED, exit_code=67, outcome=lost)
    return dataclasses.replace(push, state=WorkerState.SUCCEEDED, exit_code=0, outcome=pushed_outcome())


def _attempt_moved_on(cluster: FakeCluster, attempt: Attempt) -> Attempt:
    workers, number = attempt.workers, attempt.number
    if workers[0].state is WorkerState.WAITING:
        return dataclasses.replace(attempt, workers=(worker(0), worker(1)))
    if workers[0].state is not WorkerState.RUNNING:
        return attempt
    if attempt.is_being_deleted:
        saved = preempted_outcome(there(attempt.progress).step)
        ended = tuple(worker(index, WorkerState.FAILED, outcome=saved) for index in range(2))
        return dataclasses.replace(attempt, workers=ended)
    if attempt.progress is None:
        said = progress(number, 10 * number, at=cluster.now, resumed_from_step=10 * (number - 1))
        return dataclasses.replace(attempt, progress=said, progress_seen_at=cluster.now)
    if cluster.now - attempt.created_at < 100:
        return attempt
    return _ended(attempt)


def _ended(attempt: Attempt) -> Attempt:
    match attempt.number:
        case 1:
            last = (
                worker(0, WorkerState.FAILED, outcome=failed_outcome(ExitCode.INFRASTRUCTURE, "PeerLost")),
                worker(1, WorkerState.FAILED, disruption="EvictionByEvictionAPI", exit_code=137),
            )
        case 2:
            last = (worker(0, WorkerState.FAILED, exit_code=1), worker(1, WorkerState.FAILED, exit_code=1))
        case 3:
            return attempt  # the user suspends this one
        case _:
            last = (worker(0, WorkerState.SUCCEEDED, outcome=done_outcome()), worker(1, WorkerState.SUCCEEDED))
    return dataclasses.replace(attempt, workers=last, is_failed=attempt.number < 3)


def played(crash_after: int | None) -> tuple[FakeCluster, int]:
    """The whole story, with a crash after that many writes; and how many crashes there were."""
    push = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}
    cluster = FakeCluster(body(output={"push": push}), crash_after=crash_after)
    crashes = 0
    for _ in range(MAX_PASSES):
        try:
            result = asyncio.run(cluster.one_pass())
        except CrashError:
            crashes += 1
        else:
            if result.next_look_seconds is None:
                break
        third = next((record for record in cluster.status.attempts if record.number == 3), None)
        if third is not None and third.last_step:
            cluster.body["spec"]["suspend"] = third.decision is None
        cluster.now += 20
        moved_on(cluster)
    return cluster, crashes


def timeless(status: Status) -> dict[str, Any]:
    """`status` without times, and without texts that tell of them."""
    dumped = status.to_body()
    for key in ("startTime", "completionTime", "suspendedSeconds", "activeSeconds", "cost"):
        dumped.pop(key, None)
    for condition in dumped["conditions"]:
        del condition["lastTransitionTime"]
    for record in [*dumped["attempts"], *dumped["preparationFailures"], dumped["push"]]:
        for key in ("startedAt", "endedAt", "runningSince", "firstStepAt", "savedAt", "releasedAt"):
            record.pop(key, None)
    del dumped["preparation"]["finishedAt"], dumped["progress"]["updatedAt"], dumped["progress"]["seenAt"]
    return dumped


@pytest.fixture(scope="module")
def unbroken() -> FakeCluster:
    cluster, crashes = played(None)
    assert crashes == 0
    return cluster


def test_the_unbroken_story_ends_well(unbroken: FakeCluster) -> None:
    status = unbroken.status
    assert status.phase is Phase.SUCCEEDED
    assert [record.cause for record in status.attempts] == ["Disruption", "Unexpected", "Suspended", "Done"]
    assert [record.decision for record in status.attempts] == ["RetryUncounted", "Retry", "Suspend", "Finish"]
    assert (status.restarts, status.failures) == (3, 1)
    assert there(status.progress).step == STEPS
    assert status.artifacts[0].claim == "huanhuan-output"
    assert there(status.push).number == 2
    assert there(status.artifacts[0].pushed).commit == "c" * 40


def test_every_fact_is_told_once(unbroken: FakeCluster) -> None:
    assert unbroken.events == [
        *("Planned", "PreparationFailed", "Prepared"),
        *("AttemptStarted", "AttemptEnded", "Restarting"),
        *("AttemptStarted", "AttemptEnded", "Restarting"),
        *("AttemptStarted", "AttemptEnded", "Suspended", "Resumed"),
        "AttemptStarted",
        *("PushStarted", "PushFailed", "PushStarted", "Pushed", "Succeeded"),
    ]


def test_a_crash_after_any_write_changes_nothing_in_the_end(unbroken: FakeCluster) -> None:
    for crash_after in range(1, len(unbroken.writes) + 1):
        cluster, crashes = played(crash_after)
        assert crashes == 1, crash_after
        assert cluster.started == unbroken.started, crash_after
        assert timeless(cluster.status) == timeless(unbroken.status), crash_after
        assert set(cluster.attempts) == set(unbroken.attempts), crash_after
        assert cluster.pushed == unbroken.pushed, crash_after
