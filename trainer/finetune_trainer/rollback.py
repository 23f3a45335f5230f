"""Carries out what stability.py decides: going back, warning, giving up."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune_trainer import checkpoint
from finetune_trainer.failures import DivergedError, NotANumberError
from finetune_trainer.model import Source
from finetune_trainer.optim import SavedScale, first_scale
from finetune_trainer.running import Run
from finetune_trainer.saving import finish
from finetune_trainer.stability import GiveUp, Rollback, Warn, due, rolled_back, warned
from finetune_trainer.stepping import settle

log = logging.getLogger("finetune")


@dataclass(frozen=True, slots=True)
class Beginning:
    """The state that a run begins with, as if it had been saved; see strategies.SavedState."""

    initial: Source
    loss_scale: SavedScale
    updates: int = 0

    def weight(self, name: str, rows: slice) -> Tensor:
        """As the method gave it."""
        return self.initial(name, rows)

    def exp_avg(self, name: str, rows: slice) -> Tensor:
        """Nothing yet."""
        return torch.zeros_like(self.initial(name, rows), dtype=torch.float32)

    def exp_avg_sq(self, name: str, rows: slice) -> Tensor:
        """Nothing yet."""
        return self.exp_avg(name, rows)


def keep_stable(run: Run) -> None:
    """Do what is due after the results so far.

    Raises: NotANumberError, on every rank alike, when nothing is left to try.
    """
    state = run.position.stability
    action = due(state, run.config.stability, step=run.position.step, updates=run.position.updates)
    if action is None:
        return
    settle(run)  # nothing that happened stays untold
    if isinstance(action, Rollback):
        run.position.stability = run.position.stability.model_copy(update={"owed": action})
        roll_back_as_owed(run)
    elif isinstance(action, Warn):
        log.warning("step=%d %s", run.position.step, action.cause)
        run.position.stability = warned(run.position.stability, action)
    else:
        give_up(run, action)
    run.reporter.update(interventions=run.position.stability.interventions)


def roll_back_as_owed(run: Run) -> None:
    """If it is decided: take the weights and moments of the last good checkpoint; step and data go on from here.

    Raises: StopAgreedError; the next attempt does it before anything else.
    """
    rollback = run.position.stability.owed
    if rollback is None:
        return
    finish(run)  # what is being written must not be set aside or judged
    saved = checkpoint.newest(
        run.folder, run.settings, run.shapes, run.world, stop=run.stop, not_after=rollback.good_step
    )
    run.engine.restore(saved or Beginning(run.initial, first_scale(run.config.precision)))
    run.meter.noise.restart()
    position = run.position
    position.updates = 0 if saved is None else saved.updates
    position.stability = rolled_back(
        position.stability, run.config.stability, rollback, step=position.step,
        to_step=0 if saved is None else saved.state.step,
    )  # fmt: skip
    log.warning("step=%d rolled back: %s", position.step, position.stability.interventions[-1])


def give_up(run: Run, action: GiveUp) -> None:
    """Raise, with what was tried and what is left to the person who wrote the run."""
    state = run.position.stability
    tried = f"; {len(state.interventions)} interventions before did not help" if state.interventions else ""
    if action.is_divergence:
        raise DivergedError(
            f"{action.cause}{tried}: lower training.learningRate ({run.config.optimizer.peak_learning_rate:g}), "
            "lengthen training.schedule's warm-up, lower training.maxGradNorm, or look for rows that teach nothing",
            details=state.interventions,
        )
    raise NotANumberError(
        f"{action.cause}{tried}: lower training.learningRate ({run.config.optimizer.peak_learning_rate:g}), lengthen "
        "training.schedule's warm-up, keep training.maxGradNorm, prefer precision Bf16 to Fp16, and look at the rows "
        "of these steps",
        details=state.interventions,
    )
