"""One optimizer step over all ranks: forward and backward over the micro-batches, the update, the report."""

import hashlib
import logging
import math
import time

import torch

from finetune_trainer import methods
from finetune_trainer.data.batch import Step
from finetune_trainer.distributed import sums
from finetune_trainer.failures import NotANumberError
from finetune_trainer.loss import summed_loss
from finetune_trainer.optim import Update, learning_rate
from finetune_trainer.running import Run, stop_if_agreed

log = logging.getLogger("finetune")


def train_step(run: Run, step: Step, *, is_first: bool) -> None:
    """One optimizer step over all ranks; on a stop or an error no weight has changed.

    Raises: StopAgreedError, NotANumberError, UserError when something does not learn.
    """
    loss = accumulate(run, step)
    if not math.isfinite(loss):
        raise NotANumberError(f"loss of step {step.number} is {loss}; lower the learning rate or look at the data")
    if is_first:
        norms = {name: gradient.float().norm() for name, gradient in run.engine.gradients()}
        methods.chosen(run.config.method).check_gradients(norms)
    rate = learning_rate(
        step.number, total_steps=run.total_steps, schedule=run.config.schedule,
        peak=run.config.optimizer.peak_learning_rate,
    )  # fmt: skip
    update = run.engine.step(rate)
    run.meter.update_queued(step)
    run.position.step, run.position.loss = step.number, loss
    run.position.tokens += step.global_tokens
    report(run, step, update, rate, seconds=time.monotonic() - run.meter.began)


def accumulate(run: Run, step: Step) -> float:
    """Forward and backward over this rank's micro-batches; returns the mean loss over the whole step's tokens."""
    engine, device = run.engine, run.world.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for index, micro in enumerate(step.micro_batches):
        stop_if_agreed(run)
        run.meter.pass_begins(step, index)
        torch.manual_seed(dropout_seed(run.config.seed, step.number, index, run.world.rank))
        engine.begin(last=index == len(step.micro_batches) - 1)
        with engine.precision():
            summed = summed_loss(engine.module, micro.to(str(device)), device)
        engine.backward(summed / step.global_supervised_tokens)
        total += summed.detach().double()
    return sums(run.world, [float(total)])[0] / step.global_supervised_tokens


def dropout_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """Seed of what is random in one forward pass: the same whether or not the run was interrupted before it."""
    digest = hashlib.sha256(f"{seed}:{step}:{micro_batch}:{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def report(run: Run, step: Step, update: Update, rate: float, *, seconds: float) -> None:
    """Tell the world of a finished step."""
    figures = run.meter.step_done(step, run.position.loss, seconds)
    run.reporter.step_done(
        tokens=step.global_tokens, applied=update.applied, figures=figures, step=step.number, epoch=step.epoch,
        loss=run.position.loss, learning_rate=rate, grad_norm=update.grad_norm if update.applied else None,
        eta_seconds=figures.step_seconds * (run.total_steps - step.number),
    )  # fmt: skip
    if not update.applied:
        log.warning("step=%d skipped: fp16 gradients overflowed, loss scale now %g", step.number,
                    run.engine.loss_scale.scale)  # fmt: skip
