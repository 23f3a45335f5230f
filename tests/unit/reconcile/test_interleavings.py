"""Anything happens in any order, and the operator dies after any writes: in the end the run is done, and done once."""

import asyncio
import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_contract import Stage
from finetune_operator.lifecycle.attempts import has_live_worker
from finetune_operator.observation import Attempt, WorkerState
from finetune_operator.status import Phase
from support.fake_cluster import CrashError, FakeCluster
from support.runs import body, done_outcome, preparation, there, worker
from unit.lifecycle.test_properties import Move, happen

SURVIVABLE = ["killed", "evicted", "echo", "crash", "saved"]
"""Ends of a worker after which the run goes on."""
MOVES: st.SearchStrategy[Move] = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 400])),
    st.tuples(st.just("worker"), st.integers(0, 1), st.sampled_from(list(WorkerState)), st.sampled_from(SURVIVABLE)),
    st.tuples(st.just("step"), st.integers(0, 60), st.sampled_from([Stage.LOADING, Stage.TRAINING, Stage.SAVING])),
    st.tuples(st.just("silence")),
    st.tuples(st.just("job fails")),
    st.tuples(st.just("queue"), st.booleans()),
    st.tuples(st.just("vanish")),
    st.tuples(st.just("prepared")),
    st.tuples(st.just("preparation fails"), st.sampled_from([1, 143])),
    st.tuples(st.just("suspend"), st.booleans()),
)
MOST_PASSES = 60


class Interleaving:
    """A run, what happens to it, and an operator that dies after writes whose distances are given."""

    def __init__(self, deaths: list[int]) -> None:
        self.cluster = FakeCluster(body(recovery={"maxRestarts": 20}))
        self._deaths = list(deaths)
        self._plan_death()

    def look(self) -> None:
        """One pass, perhaps cut short; nothing is started beside what still lives."""
        cluster, started = self.cluster, list(self.cluster.started)
        alive = any(has_live_worker(attempt) for attempt in cluster.attempts.values())
        try:
            asyncio.run(cluster.one_pass())
        except CrashError:
            self._plan_death()
        assert not alive or cluster.started == started, "never a mixed gang"

    def _plan_death(self) -> None:
        self.cluster.dies_after(self._deaths.pop(0) if self._deaths else None)


def calm(cluster: FakeCluster) -> None:
    """From now on everything works."""
    cluster.body["spec"]["suspend"] = False
    cluster.now += 30
    if cluster.preparation is not None and cluster.preparation.state is not WorkerState.FAILED:
        cluster.preparation = preparation(created_at=cluster.preparation.created_at)
    for number, attempt in cluster.attempts.items():
        cluster.attempts[number] = _well(attempt)


def _well(attempt: Attempt) -> Attempt:
    """Workers that wait run, those that run are done, and a Job with a dead worker is given up."""
    states = {each.state for each in attempt.workers}
    gone: dict[str, Any] = {"is_suspended_by_queue": False}
    if attempt.is_being_deleted or WorkerState.FAILED in states:
        dead = tuple(
            each if each.state is WorkerState.FAILED else worker(each.index, WorkerState.FAILED, exit_code=143)
            for each in attempt.workers
        )
        return dataclasses.replace(attempt, workers=dead, is_failed=True, **gone)
    if states == {WorkerState.RUNNING}:
        both = (worker(0, WorkerState.SUCCEEDED, outcome=done_outcome()), worker(1, WorkerState.SUCCEEDED))
        return dataclasses.replace(attempt, workers=both, **gone)
    if WorkerState.SUCCEEDED in states:
        ended = tuple(worker(each.index, WorkerState.SUCCEEDED, outcome=each.outcome) for each in attempt.workers)
        return dataclasses.replace(attempt, workers=ended, **gone)
    return dataclasses.replace(attempt, workers=(worker(0), worker(1)), **gone)


@settings(max_examples=200, deadline=None)
@given(moves=st.lists(MOVES, max_size=16), deaths=st.lists(st.integers(1, 5), max_size=12))
def test_the_end_is_right_whatever_happens_and_wherever_the_operator_dies(moves: list[Move], deaths: list[int]) -> None:
    story = Interleaving(deaths)
    cluster = story.cluster
    for move in [("wait", 1), ("prepared",), *moves]:
        happen(cluster, move)
        story.look()
    for _ in range(MOST_PASSES):
        calm(cluster)
        story.look()
        if cluster.status.phase in (Phase.SUCCEEDED, Phase.FAILED):
            break
    check_end(cluster)
    writes = len(cluster.writes)
    for _ in range(3):
        story.look()
    assert len(cluster.writes) == writes, "the end costs no more writes"


def check_end(cluster: FakeCluster) -> None:
    status = cluster.status
    assert status.phase is Phase.SUCCEEDED, status.failure
    assert [each.path for each in status.artifacts] == ["/output/huanhuan/adapter"]
    assert (there(status.progress).percent if status.progress else "100%") == "100%"
    assert cluster.started == sorted(cluster.started), "a number is given again only if nothing was ever seen of it"
    assert [each.cause for each in status.attempts].count("Done") == 1
    assert status.attempts[-1].decision == "Finish"
    assert not any(has_live_worker(attempt) for attempt in cluster.attempts.values()), "no GPU is left held"
