"""A status that a person, or another release, has written in: whatever it says, the run goes on to an end."""

import asyncio
import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_contract import ExitCode
from finetune_operator.observation import Attempt, WorkerState
from finetune_operator.status import TERMINAL_PHASES, Phase, Status, read_status
from support.fake_cluster import FakeCluster
from support.runs import body, done_outcome, failed_outcome, preparation, progress, worker

Edit = tuple[tuple[float, ...], Any]
"""Where (a share of each level's entries, as deep as there are levels) and what stands there then; None: nothing."""

MAX_PASSES = 60
GARBAGE: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, "", "Nonsense", "Finish", "GiveUp", "Retry", "Suspended", "Succeeded", "é" * 5000),
        *("1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "2026-99-99T99:99:99Z"),
        *(-1, 0, 7, 1.5, True, [], {}, [{}]),
    ]
)
EDITS: st.SearchStrategy[Edit] = st.tuples(st.lists(st.floats(0, 0.999), min_size=1, max_size=3).map(tuple), GARBAGE)


def edited(status: dict[str, Any], edit: Edit) -> dict[str, Any]:
    """`status` with one thing in it changed."""
    where, value = edit
    status = copy.deepcopy(status)
    node: Any = status
    for depth, share in enumerate(where):
        if not node or not isinstance(node, dict | list):
            break
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[int(share * len(keys))]
        if depth < len(where) - 1 and isinstance(node[key], dict | list) and node[key]:
            node = node[key]
        elif value is None:
            del node[key]
            break
        else:
            node[key] = value
            break
    return status


def moved_on(cluster: FakeCluster) -> None:
    """The first attempt breaks, all others come to the last step."""
    if cluster.preparation is not None and cluster.preparation.state is WorkerState.WAITING:
        cluster.preparation = preparation(created_at=cluster.preparation.created_at)
    for number, attempt in cluster.attempts.items():
        cluster.attempts[number] = _later(cluster, attempt)


def _later(cluster: FakeCluster, attempt: Attempt) -> Attempt:
    if attempt.workers[0].state is WorkerState.WAITING:
        return dataclasses.replace(attempt, workers=(worker(0), worker(1)))
    if attempt.workers[0].state is not WorkerState.RUNNING:
        return attempt
    if cluster.now - attempt.created_at < 100 and not attempt.is_being_deleted:
        said = progress(attempt.number, 10 * min(attempt.number, 9), at=cluster.now)
        return dataclasses.replace(attempt, progress=said, progress_seen_at=cluster.now)
    if attempt.number > 1 and not attempt.is_being_deleted:
        ended = (worker(0, WorkerState.SUCCEEDED, outcome=done_outcome()), worker(1, WorkerState.SUCCEEDED))
        return dataclasses.replace(attempt, workers=ended)
    lost = failed_outcome(ExitCode.INFRASTRUCTURE, "PeerLost")
    broken = tuple(worker(index, WorkerState.FAILED, outcome=lost) for index in range(2))
    return dataclasses.replace(attempt, workers=broken, is_failed=True)


def played(edits: dict[int, list[Edit]]) -> tuple[FakeCluster, int]:
    """The story, with these edits of the status before these passes; and how many passes it took."""
    cluster = FakeCluster(body())
    for count in range(MAX_PASSES):
        for edit in edits.get(count, []):
            cluster.body = cluster.body | {"status": edited(cluster.body.get("status") or {}, edit)}
        asyncio.run(cluster.one_pass())
        if count > max(edits, default=0) and cluster.status.phase in TERMINAL_PHASES:
            return cluster, count
        cluster.now += 20
        moved_on(cluster)
    return cluster, MAX_PASSES


def test_the_story_without_edits_ends_well() -> None:
    cluster, passes = played({})
    assert cluster.status.phase is Phase.SUCCEEDED
    assert [each.cause for each in cluster.status.attempts] == ["Infrastructure", "Done"]
    assert 10 < passes < MAX_PASSES / 2


@settings(max_examples=40, deadline=None)
@given(edits=st.dictionaries(st.integers(1, 25), st.lists(EDITS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_whatever_is_written_into_the_status_the_run_comes_to_an_end(edits: dict[int, list[Edit]]) -> None:
    cluster, passes = played(edits)
    assert passes < MAX_PASSES, cluster.status
    rest = asyncio.run(cluster.one_pass())
    assert not rest.was_written


TEXT_EDITS: dict[str, dict[str, Any]] = {
    "phase": {"phase": "Succeeded"},
    "conditions gone": {"conditions": []},
    "records gone": {"attempts": []},
    "plan gone": {"plan": None},
    "preparation's findings gone": {"dataset": None},
    "declared over": {"completionTime": "2026-01-01T00:00:00Z"},
    "a time that is none": {"startTime": "2026-99-99T99:99:99Z"},
    "all of it gone": {},
}


@pytest.mark.parametrize("edit", TEXT_EDITS.values(), ids=TEXT_EDITS.keys())
def test_what_was_edited_under_way_is_as_it_was_after_a_pass(edit: dict[str, Any]) -> None:
    cluster = FakeCluster(body())
    for _ in range(5):
        asyncio.run(cluster.one_pass())
        cluster.now += 20
        moved_on(cluster)
    before = cluster.status
    assert before.phase is Phase.RUNNING
    status = {key: value for key, value in (cluster.body["status"] | edit).items() if value is not None}
    cluster.body = cluster.body | {"status": status if edit else {}}
    asyncio.run(cluster.one_pass())
    after = cluster.status
    assert after.phase is before.phase
    assert (after.plan, after.dataset, after.completion_time) == (before.plan, before.dataset, None)
    assert [each.number for each in after.attempts] == [1]
    assert cluster.started == [1], "nothing was started for it"


def test_a_finished_run_whose_result_was_taken_away_finds_it_again() -> None:
    cluster, _ = played({})
    made = cluster.status.artifacts
    status = {key: value for key, value in cluster.body["status"].items() if key not in ("artifacts", "completionTime")}
    cluster.body = cluster.body | {"status": status}
    asyncio.run(cluster.one_pass())
    assert (cluster.status.phase, cluster.status.artifacts) == (Phase.SUCCEEDED, made)


def test_a_finished_run_stays_finished_when_a_newer_release_has_described_its_result() -> None:
    """Nothing is trained again, and nothing of what cannot be read here is overwritten."""
    cluster, _ = played({})
    artifacts = [cluster.body["status"]["artifacts"][0] | {"bytes": {"value": 30, "unit": "MB"}}]
    cluster.body = cluster.body | {"status": cluster.body["status"] | {"artifacts": artifacts}}
    cluster.attempts.clear()
    assert not asyncio.run(cluster.one_pass()).was_written
    assert cluster.body["status"]["artifacts"] == artifacts
    assert cluster.started == [1, 2]


def test_what_cannot_be_read_is_left_out_alone_and_told_with_its_place() -> None:
    whole = FakeCluster(body())
    asyncio.run(whole.one_pass())
    records = [{"number": 1, "startedAt": "2026-01-01T00:00:00Z"}, {"number": "two"}, {"number": 3}]
    status = whole.body["status"] | {"attempts": records, "restarts": "many", "somethingNew": 1}
    read, problems = read_status(status)
    assert [record.number for record in read.attempts] == [1]
    assert (read.plan, read.restarts) == (whole.status.plan, 0)
    assert [problem.split(":")[0] for problem in problems] == [
        "status.attempts.1.number",
        "status.attempts.1.startedAt",
        "status.attempts.2.startedAt",
        "status.restarts",
    ]
    whole.body = whole.body | {"status": status}
    asyncio.run(whole.one_pass())
    assert "StatusUnreadable" in whole.events


def test_a_status_that_nobody_has_touched_is_read_as_it_is() -> None:
    cluster, _ = played({})
    assert read_status(cluster.body["status"]) == (Status.model_validate(cluster.body["status"]), ())
