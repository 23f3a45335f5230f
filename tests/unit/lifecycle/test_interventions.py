"""What the trainer does about steps that are no numbers, a diverging loss and held-out rows, as people learn of it."""

import asyncio
import dataclasses
from typing import Any

from finetune_contract import ExitCode, Failure, Outcome
from finetune_operator.observation import WorkerState
from finetune_operator.status import ConditionType, Phase, ProgressStatus
from support.fake_cluster import FakeCluster
from support.runs import attempt, body, done_outcome, preparation, progress, there, worker

FIRST = "loss or gradient norm of steps 3 to 6 were not finite: back to the weights of step 2, learning rate x 0.5"
SECOND = "the loss has risen from 2 to 9 by step 60: back to the weights of step 5, learning rate x 0.5"


class Story:
    """A run whose first attempt trains."""

    def __init__(self) -> None:
        self.cluster = FakeCluster(body())
        self.cluster.preparation = preparation()
        self.look()
        self.cluster.attempts[1] = attempt(created_at=self.cluster.now)

    def says(self, step: int, **told: Any) -> None:
        """A minute later rank 0 says so."""
        self.cluster.now += 60
        said = progress(1, step, at=self.cluster.now, **told)
        seen = dataclasses.replace(self.cluster.attempts[1], progress=said, progress_seen_at=self.cluster.now)
        self.cluster.attempts[1] = seen
        self.look()

    def ends(self, outcome: Outcome) -> None:
        """Both workers end so."""
        state = WorkerState.SUCCEEDED if outcome.exit_code is ExitCode.DONE else WorkerState.FAILED
        code = int(outcome.exit_code)
        workers = [worker(index, state, outcome=outcome, exit_code=code) for index in (0, 1)]
        self.cluster.attempts[1] = attempt(*workers, created_at=self.cluster.now)
        for _ in range(2):  # seen, and heard out
            self.cluster.now += 60
            self.look()

    def look(self) -> None:
        """A pass."""
        self.cluster.now += 10
        asyncio.run(self.cluster.one_pass())

    @property
    def progress(self) -> ProgressStatus:
        return there(self.cluster.status.progress)


def test_each_intervention_is_shown_and_told_once() -> None:
    story = Story()
    story.says(7, skipped_steps=4, interventions=(FIRST,))
    story.says(30, skipped_steps=4, interventions=(FIRST,))
    assert (story.progress.skipped_steps, story.progress.interventions) == (4, (FIRST,))
    assert story.cluster.events.count("Intervened") == 1
    story.says(70, skipped_steps=4, interventions=(FIRST, SECOND))
    assert story.progress.interventions == (FIRST, SECOND)
    assert story.cluster.events.count("Intervened") == 2


def test_one_that_nobody_polled_before_the_end_is_told_by_the_outcome() -> None:
    story = Story()
    story.says(7, interventions=(FIRST,))
    failure = Failure(exit_code=ExitCode.NOT_A_NUMBER, reason="Diverged", message="lower training.learningRate")
    story.ends(Outcome(exit_code=ExitCode.NOT_A_NUMBER, failure=failure, step=70, interventions=(FIRST, SECOND)))
    assert story.progress.interventions == (FIRST, SECOND)
    assert story.cluster.events.count("Intervened") == 2


def test_an_end_before_the_last_step_is_told_with_the_best_one() -> None:
    story = Story()
    story.says(80, validation_loss=1.5, best_validation_loss=1.5, best_step=80)
    assert (story.progress.best_validation_loss, story.progress.best_step) == ("1.5000", 80)
    result = there(done_outcome().result).model_copy(
        update={
            "steps": 90, "stopped_early": True, "artifacts_step": 82, "validation_loss": 1.4,
            "best_validation_loss": 1.4, "best_step": 82, "skipped_steps": 5,
        }
    )  # fmt: skip
    story.ends(Outcome(exit_code=ExitCode.DONE, result=result, step=90))
    status = story.cluster.status
    assert status.phase is Phase.SUCCEEDED
    assert (status.stopped_early, status.artifacts_step, status.validation_loss) == (True, 82, "1.4000")
    assert (story.progress.validation_loss, story.progress.best_validation_loss) == ("1.4000", "1.4000")
    assert story.progress.best_step == 82
    assert (story.progress.percent, story.progress.skipped_steps) == ("100%", 5)
    (succeeded,) = (each for each in status.conditions if each.type is ConditionType.SUCCEEDED)
    assert succeeded.message == "final loss 1.2500; ended early, since the validation loss no longer fell"
