"""Whatever happens to a run, and in whatever order: what never may."""

import asyncio
import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_contract import PEER_LOST, ExitCode, Stage
from finetune_operator.failures import Verdict
from finetune_operator.lifecycle import text
from finetune_operator.lifecycle.attempts import has_live_worker
from finetune_operator.observation import Attempt, WorkerState
from finetune_operator.settings import Limits, Settings
from finetune_operator.status import (
    TERMINAL_PHASES,
    Condition,
    ConditionStatus,
    ConditionType,
    CostStatus,
    Phase,
    Status,
)
from support.fake_cluster import FakeCluster
from support.runs import (
    attempt,
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

Move = tuple[Any, ...]
"""What happens, and the figures that belong to it."""

FAILED = WorkerState.FAILED
NOTHING_YET = {"gpu_seconds": 0, "useful_gpu_seconds": 0, "lost_gpu_seconds": 0, "queued_seconds": 0}
ENDS: dict[str, dict[str, Any]] = {
    "killed": {"exit_code": 137},
    "evicted": {"exit_code": 143, "disruption": "EvictionByEvictionAPI"},
    "echo": {"exit_code": 67, "outcome": failed_outcome(ExitCode.INFRASTRUCTURE, PEER_LOST)},
    "crash": {"exit_code": 1, "outcome": failed_outcome(ExitCode.UNEXPECTED)},
    "bad rows": {"exit_code": 64, "outcome": failed_outcome(ExitCode.USER_ERROR)},
    "saved": {"exit_code": 75, "outcome": preempted_outcome(5)},
    "starved": {"exit_code": 65, "outcome": failed_outcome(ExitCode.OUT_OF_MEMORY)},
    "host's memory": {"exit_code": 137, "reason": "OOMKilled"},
}
MOVES: st.SearchStrategy[Move] = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 400, 4000])),
    st.tuples(st.just("worker"), st.integers(0, 1), st.sampled_from(list(WorkerState)), st.sampled_from(list(ENDS))),
    st.tuples(st.just("step"), st.integers(0, 60), st.sampled_from(list(Stage))),
    st.tuples(st.just("silence")),
    st.tuples(st.just("job fails")),
    st.tuples(st.just("queue"), st.booleans()),
    st.tuples(st.just("done")),
    st.tuples(st.just("vanish")),
    st.tuples(st.just("prepared")),
    st.tuples(st.just("preparation fails"), st.sampled_from([1, 64, 143])),
    st.tuples(st.just("suspend"), st.booleans()),
)


def happen(cluster: FakeCluster, move: Move) -> None:
    """The world's turn."""
    newest = max(cluster.attempts, default=None)
    match move:
        case ("wait", seconds):
            cluster.now += seconds
        case ("suspend", wish):
            cluster.body["spec"]["suspend"] = wish
        case ("prepared",) if cluster.preparation is not None:
            cluster.preparation = preparation(created_at=cluster.preparation.created_at)
        case ("preparation fails", code) if cluster.preparation is not None:
            cluster.preparation = preparation(FAILED, exit_code=code, created_at=cluster.preparation.created_at)
        case ("vanish",):
            cluster.attempts.clear()
            cluster.preparation = None
        case _ if newest is not None:
            cluster.attempts[newest] = attempt_after(cluster.attempts[newest], move, cluster.now)


def attempt_after(attempt: Attempt, move: Move, now: float) -> Attempt:
    workers = list(attempt.workers)
    match move:
        case ("worker", index, state, end) if workers[index].state not in (FAILED, WorkerState.SUCCEEDED):
            ending = ENDS[end] if state is FAILED else {}
            workers[index] = dataclasses.replace(workers[index], state=state, **ending)
            return dataclasses.replace(attempt, workers=tuple(workers))
        case ("step", step, stage):
            said = progress(attempt.number, step, at=now, stage=stage)
            return dataclasses.replace(attempt, progress=said, progress_seen_at=now)
        case ("silence",):
            return dataclasses.replace(attempt, progress=None, progress_seen_at=None)
        case ("queue", holds_back):
            return dataclasses.replace(attempt, is_suspended_by_queue=holds_back)
        case ("job fails",):
            return dataclasses.replace(attempt, is_failed=any(worker.state is FAILED for worker in workers))
        case ("done",) if all(worker.state is WorkerState.RUNNING for worker in workers):
            workers = [dataclasses.replace(each, state=WorkerState.SUCCEEDED, exit_code=0) for each in workers]
            workers[0] = dataclasses.replace(workers[0], outcome=done_outcome())
            return dataclasses.replace(attempt, workers=tuple(workers))
    return attempt


def running_condition(status: Status) -> Condition:
    return next(each for each in status.conditions if each.type is ConditionType.RUNNING)


def check_pass(before: Status, after: Status) -> None:
    """What one pass may never do."""
    if before.phase in TERMINAL_PHASES:
        assert after.phase is before.phase, "terminal is terminal"
        assert after.attempts == before.attempts
    numbers = [record.number for record in after.attempts]
    assert numbers == sorted(set(numbers)), "an attempt is recorded once"
    decided = {record.number: record for record in before.attempts if record.decision}
    for record in after.attempts:
        known = decided.get(record.number, record)
        assert known.released_at in (None, record.released_at)
        assert record == known.model_copy(update={"released_at": record.released_at}), "decided is decided"
    old_cost, cost = before.cost or CostStatus(**NOTHING_YET), after.cost or CostStatus(**NOTHING_YET)
    for sum_name in NOTHING_YET:
        assert getattr(cost, sum_name) >= getattr(old_cost, sum_name), "what was spent stays spent"
    assert cost.useful_gpu_seconds + cost.lost_gpu_seconds <= cost.gpu_seconds
    assert (after.failures, after.restarts) >= (before.failures, before.restarts)
    check_remedies(before, after)
    if running_condition(after).status is ConditionStatus.TRUE or after.phase is Phase.RUNNING:
        last = after.attempts[-1]
        assert there(last.last_step) > (last.resumed_from_step or 0), "running means that a step was done"
    old, new = before.progress, after.progress
    if old is not None and new is not None and old.attempt == new.attempt:
        assert new.step >= old.step, "progress never falls within an attempt"
    if after.phase not in (Phase.RUNNING, Phase.EXPORTING, Phase.STARTING, Phase.QUEUED, Phase.RESTARTING):
        assert new is None or new.eta is None, "nothing that stands still has an ETA"


def check_columns(cluster: FakeCluster, before: Status) -> None:
    """What `kubectl get` shows is never blank without a reason beside it, and never old without saying so."""
    status = cluster.status
    planned = next(each for each in status.conditions if each.type is ConditionType.PLANNED)
    assert status.plan is not None or planned.status is ConditionStatus.FALSE, "GPUS is shown, or why there are none"
    shown = status.progress
    if shown is None:
        assert before.progress is None, "PROGRESS, STEP and LOSS stay"
        return
    assert not before.progress or before.progress.loss is None or shown.loss is not None
    record = next((each for each in status.attempts if each.number == shown.attempt), None)
    newest = max(cluster.attempts.values(), key=lambda each: each.number, default=None)
    is_under_way = record is not None and record.decision is None
    if not is_under_way:
        assert (shown.eta, shown.tokens_per_second, shown.stale) == (None, None, False), "what has stopped has no speed"
    elif newest is not None and newest.number == shown.attempt:
        heard_at = newest.progress_seen_at or text.seconds_of(there(shown.seen_at))
        is_old = cluster.now - heard_at > cluster.settings.stale_after_seconds
        assert shown.stale == is_old, "old figures say that they are"


def check_remedies(before: Status, after: Status) -> None:
    """What was changed stays changed, each change belongs to an end, and the plan in force is what is settled."""
    old, new = (status.recovery.remedies if status.recovery else () for status in (before, after))
    assert new[: len(old)] == old, "a remedy is never forgotten"
    ended = {record.number for record in after.attempts if record.decision == Verdict.REMEDY}
    assert {remedy.after_attempt for remedy in new} == ended
    pinned = after.recovery.pinned if after.recovery else None
    if pinned is not None and after.plan is not None:
        settled = (pinned.micro_batch, pinned.activation_checkpointing, pinned.method)
        assert (after.plan.micro_batch, after.plan.activation_checkpointing, after.plan.method) == settled


@settings(max_examples=120, deadline=None)
@given(moves=st.lists(MOVES, max_size=30))
def test_no_sequence_of_events_breaks_a_promise(moves: list[Move]) -> None:
    asyncio.run(_played([("wait", 1), ("prepared",), *moves]))


async def _played(moves: list[Move]) -> None:
    cluster = FakeCluster(body(recovery={"maxRestarts": 2, "hangTimeoutSeconds": 600}))
    cluster.settings = Settings(limits=Limits(max_memory_per_gpu="128Gi"))
    for move in moves:
        happen(cluster, move)
        before, started = cluster.status, list(cluster.started)
        alive = any(has_live_worker(attempt) for attempt in cluster.attempts.values())
        result = await cluster.one_pass()
        assert result.status == cluster.status, "what the pass says is what was written"
        check_pass(before, cluster.status)
        check_columns(cluster, before)
        if cluster.started != started:
            assert not alive, "an attempt was started while a worker of an earlier one was left"
            assert cluster.started[-1] >= 1 + max((record.number for record in before.attempts), default=0)
        await check_second_pass(cluster)


async def check_second_pass(cluster: FakeCluster) -> None:
    """What the first pass did may be news to the second; after that there is none."""
    writes = len(cluster.writes)
    await cluster.one_pass()
    if cluster.status.phase in TERMINAL_PHASES:
        assert len(cluster.writes) == writes, "a second pass writes nothing"
    await cluster.one_pass()
    assert not (await cluster.one_pass()).was_written, "without news the passes come to rest"


PUSH: dict[str, Any] = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}
PUSH_ENDS: dict[str, dict[str, Any]] = {
    "pushed": {"exit_code": 0, "outcome": pushed_outcome()},
    "refused": {"exit_code": 64, "outcome": failed_push(ExitCode.USER_ERROR, "TokenRefused")},
    "unreachable": {"exit_code": 67, "outcome": failed_push(ExitCode.INFRASTRUCTURE, "HubUnreachable")},
    "killed": {"exit_code": 137},
    "evicted": {"exit_code": 143, "disruption": "EvictionByEvictionAPI"},
}
PUSH_MOVES: st.SearchStrategy[Move] = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 600])),
    st.tuples(st.just("push runs")),
    st.tuples(st.just("push ends"), st.sampled_from(list(PUSH_ENDS))),
    st.tuples(st.just("push vanishes")),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("push to"), st.sampled_from(["me/huanhuan", "us/huanhuan", None])),
    st.tuples(st.just("touch")),
)


def push_happens(cluster: FakeCluster, move: Move) -> None:
    """The world's turn, once the training is over."""
    number = max(cluster.pushes, default=0)
    push, spec = cluster.pushes.get(number), cluster.body["spec"]
    if move[0] in ("suspend", "push to", "touch"):
        cluster.body["metadata"] = cluster.body["metadata"] | {"generation": cluster.body["metadata"]["generation"] + 1}
    match move:
        case ("wait", seconds):
            cluster.now += seconds
        case ("suspend", wish):
            cluster.body["spec"] = spec | {"suspend": wish}
        case ("push to", None):
            cluster.body["spec"] = spec | {"output": {}}
        case ("push to", repository):
            cluster.body["spec"] = spec | {"output": {"push": PUSH | {"repository": repository}}}
        case ("push vanishes",):
            cluster.pushes.clear()
        case ("push runs",) if push is not None and push.state is WorkerState.WAITING:
            cluster.pushes[number] = dataclasses.replace(push, state=WorkerState.RUNNING)
        case ("push ends", end) if push is not None and push.is_alive:
            state = WorkerState.SUCCEEDED if end == "pushed" else FAILED
            cluster.pushes[number] = dataclasses.replace(push, state=state, **PUSH_ENDS[end])


@settings(max_examples=150, deadline=None)
@given(moves=st.lists(PUSH_MOVES, max_size=30))
def test_no_sequence_of_events_loses_what_was_made_or_pushes_it_twice(moves: list[Move]) -> None:
    asyncio.run(_pushed(moves))


async def _pushed(moves: list[Move]) -> None:
    cluster = FakeCluster(body(output={"push": PUSH}))
    await cluster.one_pass()
    cluster.preparation = preparation()
    await cluster.one_pass()
    cluster.attempts[1] = attempt(
        worker(0, WorkerState.SUCCEEDED, outcome=done_outcome()), worker(1, WorkerState.SUCCEEDED)
    )
    for move in moves:
        push_happens(cluster, move)
        before, told = cluster.status, len(cluster.pushed)
        alive = [number for number, push in cluster.pushes.items() if push.is_alive]
        await cluster.one_pass()
        check_push(cluster, before, has_started=len(cluster.pushed) > told, alive=alive)
        await cluster.one_pass()
        await cluster.one_pass()
        assert not (await cluster.one_pass()).was_written, "without news the passes come to rest"


def check_push(cluster: FakeCluster, before: Status, *, has_started: bool, alive: list[int]) -> None:
    """What one pass may never do."""
    after, spec = cluster.status, cluster.body["spec"]
    assert [each.path for each in after.artifacts] == ["/output/huanhuan/adapter"], "what was made is never forgotten"
    assert len(after.attempts) == 1, "nothing is trained again"
    assert (after.phase is Phase.FAILED) == (after.failure is not None)
    if after.phase is Phase.SUCCEEDED and spec["output"]:
        record = there(after.push)
        assert (record.cause, spec["output"]["push"]["repository"] in record.target) == ("Done", True)
    if not has_started:
        return
    assert not alive, "a push was started while an earlier one was left"
    assert spec["output"], "a push was started that nobody wants"
    assert not spec.get("suspend"), "a push was started while the run is suspended"
    stands = before.push is not None and before.push.decision == "Finish"
    assert not stands or spec["output"]["push"]["repository"] not in there(before.push).target, "pushed twice"
