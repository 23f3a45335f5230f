"""What a run has cost: every second of every GPU in its place, and no write for it."""

import dataclasses
from typing import Any

import pytest

from finetune_contract import ExitCode
from finetune_operator.lifecycle import decide_pass
from finetune_operator.observation import Attempt, Observation, WorkerState
from finetune_operator.planning import make_plan
from finetune_operator.settings import Pricing, Settings
from finetune_operator.status import MAX_ATTEMPTS, CostStatus
from support.runs import (
    START,
    attempt,
    checkpoint,
    done_outcome,
    failed_outcome,
    preempted_outcome,
    preparation,
    progress,
    there,
    worker,
)
from unit.lifecycle.story import Story

FAILED, WAITING = WorkerState.FAILED, WorkerState.WAITING
GPUS = 2


class Spending(Story):
    """A story whose cost is looked at."""

    @property
    def cost(self) -> CostStatus:
        return there(self.status.cost)

    def sums(self) -> tuple[int, int, int, int]:
        """Held, useful and lost per GPU, and queued."""
        cost = self.cost
        per_gpu = [each // GPUS for each in (cost.gpu_seconds, cost.useful_gpu_seconds, cost.lost_gpu_seconds)]
        return per_gpu[0], per_gpu[1], per_gpu[2], cost.queued_seconds

    def at_step(self, step: int, after: float, number: int = 1, saved: int | None = None, **fields: Any) -> None:
        """Rank 0 says so; `saved`: the step of its newest checkpoint."""
        at = self.now + after
        told = None if saved is None else checkpoint(saved)
        said = progress(number, step, at=at, checkpoint=told, **fields)
        self.see(self.attempt(number, progress=said, progress_seen_at=at), after=after)

    def attempt(self, number: int = 1, *workers: Any, **fields: Any) -> Attempt:
        return attempt(*workers, number=number, **{"created_at": self.made_at} | fields)

    made_at = START


def started(number: int = 1, **spec: Any) -> Spending:
    """100 s in a queue, then every worker runs; 50 s later the first step is done."""
    story = Spending(**spec)
    story.see(prepared=False)
    story.see()
    story.see(story.attempt(1, worker(0, WAITING), worker(1, WAITING)))
    story.see(story.attempt(), after=100)
    story.at_step(1, after=50)
    return story


def broken(story: Spending, number: int = 1) -> Attempt:
    lost = failed_outcome(ExitCode.INFRASTRUCTURE, "NcclError")
    return story.attempt(number, worker(0, FAILED, outcome=lost), worker(1, FAILED, outcome=lost), is_failed=True)


def test_time_in_a_queue_holds_no_gpu() -> None:
    story = started()
    assert story.sums() == (50, 0, 0, 100)
    assert story.cost.goodput == "0%"


def test_steps_are_useful_once_a_checkpoint_keeps_them() -> None:
    story = started()
    story.at_step(50, after=500)
    assert story.sums() == (550, 0, 0, 100)
    assert story.cost.goodput == "90%", "what the next checkpoint will keep is not called wasted"
    story.at_step(60, after=100, saved=60)
    assert story.sums() == (650, 600, 0, 100)


def test_a_restart_loses_the_steps_since_the_checkpoint_and_its_own_start() -> None:
    story = started()
    story.at_step(60, after=600, saved=60)
    story.at_step(80, after=200, saved=60)
    story.see(broken(story), after=10)
    assert story.sums() == (860, 600, 210, 100)
    story.made_at = story.now + 5
    story.see(broken(story), story.attempt(2, worker(0, WAITING), worker(1, WAITING)), after=5)
    story.see(broken(story), story.attempt(2), after=30)
    story.at_step(61, after=40, number=2, resumed_from_step=60)
    assert story.sums() == (860 + 40, 600, 210 + 40, 130)
    finished = story.attempt(2, *(worker(index, WorkerState.SUCCEEDED, outcome=done_outcome()) for index in (0, 1)))
    story.see(finished, after=400)
    assert story.sums() == (1300, 1000, 250, 130)
    assert story.cost.goodput == "76%"


def test_an_attempt_without_a_step_led_nowhere() -> None:
    story = Spending()
    story.see(prepared=False)
    story.see()
    story.see(story.attempt())
    story.see(broken(story), after=70)
    assert story.sums() == (70, 0, 70, 0)


def test_a_run_that_saved_and_stopped_has_lost_nothing() -> None:
    story = started(suspend=False)
    story.at_step(60, after=600)
    story.change(suspend=True)
    story.see(story.attempt(), after=10)
    saved = tuple(worker(index, FAILED, outcome=preempted_outcome(61)) for index in (0, 1))
    story.see(story.attempt(1, *saved, is_being_deleted=True), after=20)
    held, useful, lost, _ = story.sums()
    assert (held, useful, lost) == (680, 610, 0)
    story.see(after=10_000)
    assert story.sums()[:3] == (held, useful, lost), "a suspended run costs nothing"


def test_gpus_are_held_until_the_last_worker_is_gone() -> None:
    story = started(recovery={"maxRestarts": 3})
    lost = failed_outcome(ExitCode.INFRASTRUCTURE, "NcclError")
    half = story.attempt(1, worker(0, FAILED, outcome=lost), worker(1, is_terminating=True), is_failed=True)
    story.see(half, after=10)
    story.see(half, after=90)
    assert story.status.attempts[0].decision is not None
    assert story.status.attempts[0].released_at is None
    story.see(broken(story), after=40)
    assert story.sums()[0] == 50 + 10 + 90 + 40


def test_a_look_without_news_counts_nothing() -> None:
    story = started()
    before = story.status
    same = story.attempt(progress=progress(1, 1, at=story.now), progress_seen_at=story.now)
    for _ in range(5):
        story.see(dataclasses.replace(same, progress_seen_at=story.now + 60), after=60)
    assert story.status == before


def test_attempts_that_are_listed_no_longer_still_count() -> None:
    story = started(recovery={"maxRestarts": 20})
    for number in range(1, MAX_ATTEMPTS + 1):
        story.see(broken(story, number), after=0 if number == 1 else 1)
        story.made_at = story.now
        story.see(broken(story, number), story.attempt(number + 1, worker(0, WAITING), worker(1, WAITING)), after=7)
        story.see(story.attempt(number + 1))
    assert [record.number for record in story.status.attempts] == list(range(2, MAX_ATTEMPTS + 2))
    assert story.sums() == (50 + 19, 0, 19, 100 + 20 * 7)
    assert there(story.cost.earlier).gpu_seconds == 50 * GPUS


@pytest.mark.parametrize(("resource", "price"), [("nvidia.com/gpu", "7.20 EUR"), ("amd.com/gpu", None)])
def test_the_admin_may_name_a_price(resource: str, price: str | None) -> None:
    prices = Settings(pricing=Pricing(currency="EUR", per_gpu_hour={"nvidia.com/gpu": 3.6}))
    story = started(resources={"gpuResource": resource})
    seen = Observation(attempts=(broken(story),), preparation=preparation())
    plan = make_plan(story.run, model=None, dataset=None, gpu_memory_bytes=None)
    decided = decide_pass(story.run, story.status, seen, lambda _: plan, prices, story.now + 3550)
    assert there(decided.status.cost).gpu_seconds == GPUS * 3600
    assert there(decided.status.cost).price == price
