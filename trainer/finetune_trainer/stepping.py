"""One optimizer step over all ranks: forward and backward over the micro-batches, the update, and what became of it.

The device works through a queue. A step is queued without asking for any of its numbers, and heard of when the next one
has been queued; whether it may change a weight is decided on the device.
"""

import hashlib
import logging
import math
import time

import torch
from torch import Tensor

from finetune_trainer import methods
from finetune_trainer.data.batch import Step
from finetune_trainer.distributed import summed_on_device
from finetune_trainer.experts import take_load
from finetune_trainer.loss import poisoned, summed_loss
from finetune_trainer.measuring.expert_load import LOAD_STEPS, load_of
from finetune_trainer.measuring.meter import SAMPLE_STEPS
from finetune_trainer.optim import LossScale
from finetune_trainer.rates import learning_rate, warmup_steps
from finetune_trainer.readback import Readback
from finetune_trainer.running import InFlight, Run, stop_if_agreed
from finetune_trainer.stability import StepResult, observed, tempered_norm, tempered_rate

log = logging.getLogger("finetune")


def queue_step(run: Run, step: Step) -> InFlight:
    """Queue a step on the device; when loss or gradient norm is not finite it will change nothing.

    Raises: StopAgreedError, and UserError when something does not learn; no weight has changed then.
    """
    loss = accumulate(run, step)
    if not run.gradients_checked:
        check_gradients(run)
    rate = rate_of(run, step.number)
    max_norm = tempered_norm(run.config.optimizer.max_grad_norm, run.position.stability)
    update = run.engine.step(rate, max_norm)
    run.meter.update_queued(step)
    sampled = [run.engine.moment_norm()] if step.number % SAMPLE_STEPS == 0 else []
    readback = Readback([loss, update.grad_norm, update.applied, update.loss_scale, *sampled])
    return InFlight(
        step=step, rate=rate, began=run.meter.began, queued=time.monotonic(), readback=readback, max_norm=max_norm
    )


def accumulate(run: Run, step: Step) -> Tensor:
    """Forward and backward over this rank's micro-batches; the step's mean loss over all tokens, on the device."""
    engine, device = run.engine, run.world.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for index, micro in enumerate(step.micro_batches):
        run.meter.between_passes(index)
        stop_if_agreed(run)
        run.meter.pass_begins(step, index)
        torch.manual_seed(dropout_seed(run.config.seed, step.number, index, run.world.rank))
        engine.begin(last=index == len(step.micro_batches) - 1)
        with engine.precision():
            summed = summed_loss(engine.module, micro.to(str(device)), device)
        engine.backward(poisoned(summed) / step.global_supervised_tokens)
        total += summed.detach().double()
    return summed_on_device(run.world, total) / step.global_supervised_tokens


def dropout_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """Seed of what is random in one forward pass: the same whether or not the run was interrupted before it."""
    digest = hashlib.sha256(f"{seed}:{step}:{micro_batch}:{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_gradients(run: Run) -> None:
    """Once in an attempt, at its first step that is a number: everything that should learn gets a gradient."""
    norms = {name: gradient.float().norm() for name, gradient in run.engine.gradients()}
    if bool(torch.stack(list(norms.values())).isfinite().all()):
        methods.chosen(run.config.method).check_gradients(norms)
        run.gradients_checked = True


def rate_of(run: Run, step: int) -> float:
    """The learning rate of a step: the schedule's, times what a growing batch and interventions leave of it."""
    config, batch = run.config, run.config.batch
    rate = learning_rate(
        step, total_steps=run.total_steps, schedule=config.schedule, peak=config.optimizer.peak_learning_rate
    )
    if batch.ramp is not None and batch.ramp.scale_rate:
        rate *= math.sqrt(run.steps[step].global_sequences / batch.global_sequences)
    warmup = warmup_steps(config.schedule, run.total_steps)
    return tempered_rate(rate, run.position.stability, step, warmup_steps=warmup)


def settle(run: Run) -> None:
    """Hear of the step in flight, if there is one: position, stability, report."""
    if run.in_flight is None:
        return
    flight, run.in_flight = run.in_flight, None
    loss, grad_norm, applied, scale, *moment_norm = flight.readback.values()
    result = StepResult(loss=loss, applied=bool(applied), is_overflow=_is_overflow(run, loss, bool(applied), scale))
    position, step = run.position, flight.step
    position.step = step.number
    position.updates += result.applied
    position.tokens += step.global_tokens
    if math.isfinite(loss):
        position.loss = loss
    position.stability = observed(position.stability, run.config.stability, result)
    if result.applied and step.number >= run.steps.whole_from:
        run.meter.update_done(grad_norm, flight.max_norm, *moment_norm)
    report(run, flight, result, grad_norm)
    if not result.applied:
        log.warning("step=%d skipped: loss=%g grad_norm=%g loss_scale=%g", step.number, loss, grad_norm, scale)


def _is_overflow(run: Run, loss: float, applied: bool, scale: float) -> bool:
    return not applied and run.engine.loss_scale.enabled and math.isfinite(loss) and scale > LossScale.LOWEST


def report(run: Run, flight: InFlight, result: StepResult, grad_norm: float) -> None:
    """Tell the world of a finished step."""
    step = flight.step
    figures = run.meter.step_done(step, result.loss, _seconds(run, flight))
    run.reporter.step_done(
        tokens=step.global_tokens, applied=result.applied, figures=figures, step=step.number, epoch=step.epoch,
        loss=result.loss, learning_rate=flight.rate, grad_norm=grad_norm,
        eta_seconds=figures.step_seconds * (run.total_steps - step.number),
        skipped_steps=run.position.stability.skipped_steps,
    )  # fmt: skip


def report_experts(run: Run, step: int) -> None:
    """Tell how a mixture spreads its tokens, if it is time to; all ranks come here after every step."""
    if step % LOAD_STEPS == 0 or step == run.total_steps:
        load_LX = take_load(run.engine.model)
        if load_LX is not None:
            run.reporter.experts(step, load_of(load_LX, run.world))


def _seconds(run: Run, flight: InFlight) -> float:
    """How long the step took: from its beginning, or from the end of the one before where the queue was full."""
    done = flight.queued if run.world.device.type == "cpu" else time.monotonic()
    before, run.heard_at = run.heard_at, done
    return done - max(before, flight.began)
