"""A whole run, read from top to bottom: load, resume, train, validate, save, export."""

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from finetune_contract import (
    ActivationCheckpointing,
    Artifact,
    CheckpointReport,
    ExitCode,
    Outcome,
    RunConfig,
    Stage,
    TrainingResult,
)
from finetune_trainer import checkpoint, export, methods, strategies
from finetune_trainer.data.batch import MicroBatch, Step
from finetune_trainer.data.loader import TokenCache, open_tokens, total_steps, training_steps, validation_micro_batches
from finetune_trainer.distributed import World, any_rank, maxima, sums
from finetune_trainer.failures import NotANumberError
from finetune_trainer.loss import summed_loss
from finetune_trainer.model import WeightFiles, load_config, recompute_activations, skeleton
from finetune_trainer.optim import Update, learning_rate
from finetune_trainer.reporting import Reporter
from finetune_trainer.strategies import Engine
from finetune_trainer.throughput import StepTimes, flops_per_token, peak_flops, peak_memory_bytes

log = logging.getLogger("finetune")


class Stop(Protocol):
    """Whether this process has been told to stop."""

    @property
    def requested(self) -> bool:
        """True from the first signal on."""


class StopAgreedError(Exception):
    """All ranks have agreed to stop; raised between two passes, when no collective is under way."""


@dataclass(slots=True)
class Position:
    """How far the run has come."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan
    validation_loss: float | None = None
    validated_step: int = 0
    checkpoint: CheckpointReport | None = None
    """The newest complete one."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What the stages of a run share."""

    config: RunConfig
    world: World
    stop: Stop
    reporter: Reporter
    cache: TokenCache
    total_steps: int
    engine: Engine
    flops_per_token: int
    settings: dict[str, Any]
    position: Position
    times: StepTimes = field(default_factory=StepTimes)

    @property
    def folder(self) -> Path:
        """The run's own folder on the output volume."""
        return Path(self.config.output_dir)


def run(config: RunConfig, world: World, stop: Stop, position: Position) -> Outcome:
    """Everything an attempt does; returns DONE or PREEMPTED, raises for every other end.

    `position` is kept up to date, so that the caller knows how far a run came that raised.
    """
    cache = open_tokens(config.tokens_dir)
    steps = total_steps(cache, batch=config.batch, epochs=config.epochs, max_steps=config.max_steps)
    with Reporter(config, steps, active=world.is_main) as reporter:
        run = load(config, world, stop, position, reporter, cache, steps)
        try:
            resume(run)
            train(run)
            artifacts = exported(run)
        except StopAgreedError:
            return preempted(run)
        reporter.enter(Stage.DONE)
        return done(run, artifacts)


def load(
    config: RunConfig,
    world: World,
    stop: Stop,
    position: Position,
    reporter: Reporter,
    cache: TokenCache,
    total_steps: int,
) -> Run:
    """The model with what is trained of it, spread over the ranks."""
    _log_plan(config, cache, total_steps)
    files = WeightFiles(config.model_dir)
    method = methods.chosen(config.method)
    model = skeleton(load_config(config.model_dir))
    if config.activation_checkpointing is ActivationCheckpointing.FULL:
        recompute_activations(model)
    adapted = method.apply(model, config.method, base_name=config.model_dir).train()
    log.info("trains: %s", method.table(adapted))
    flops = flops_per_token(adapted)  # before the strategy cuts the weights
    initial = method.initial_values(config.method, files, config.seed)
    engine = strategies.chosen(config).prepare(adapted, initial, config, world)
    settings = checkpoint.settings_of(
        config, model_digest=checkpoint.model_digest(config.model_dir), tokens_digest=cache.report.digest
    )
    return Run(
        config=config, world=world, stop=stop, position=position, reporter=reporter, cache=cache,
        total_steps=total_steps, engine=engine, flops_per_token=flops, settings=settings,
    )  # fmt: skip


def _log_plan(config: RunConfig, cache: TokenCache, total_steps: int) -> None:
    batch = config.batch
    log.info(
        "batch: %d sequences x %d ranks x %d accumulation = %d sequences per step (on average %d tokens)",
        batch.micro_sequences, batch.world_size, batch.accumulation_steps, batch.global_sequences,
        cache.report.tokens * batch.global_sequences // max(cache.report.sequences, 1),
    )  # fmt: skip
    log.info(
        "steps: %d sequences / %d per step x %g epochs%s = %d steps",
        cache.report.sequences, batch.global_sequences, config.epochs,
        "" if config.max_steps is None else f", at most {config.max_steps}", total_steps,
    )  # fmt: skip


def resume(run: Run) -> None:
    """Go on from the newest sound checkpoint, if there is one."""
    saved = checkpoint.newest(run.folder, run.settings, run.world)
    if saved is None:
        return
    run.engine.restore(saved)
    state, position = saved.state, run.position
    position.step, position.tokens, position.loss = state.step, state.tokens, state.loss
    position.validation_loss, position.validated_step = state.validation_loss, state.validated_step
    position.checkpoint = saved.report()
    run.reporter.update(
        step=state.step, loss=state.loss, validation_loss=state.validation_loss, resumed_from_step=state.step,
        checkpoint=position.checkpoint,
    )  # fmt: skip
    log.info("resumed from %s: step=%d tokens=%d", saved.path, state.step, state.tokens)


def train(run: Run) -> None:
    """The remaining steps, with validation and a checkpoint every so many of them and after the last."""
    config = run.config
    first_step = run.position.step + 1
    steps = training_steps(
        run.cache, batch=config.batch, epochs=config.epochs, max_steps=config.max_steps, seed=config.seed,
        rank=run.world.rank, first_step=first_step,
    )  # fmt: skip
    for step in steps:
        run.reporter.enter(Stage.TRAINING)
        train_step(run, step, is_first=step.number == first_step)
        if step.number % config.checkpoint.every_steps == 0 or step.number == run.total_steps:
            validate(run)
            save(run)
    if run.position.validated_step < run.total_steps:  # stopped between the last step and its validation
        validate(run)


def train_step(run: Run, step: Step, *, is_first: bool) -> None:
    """One optimizer step over all ranks; on a stop or an error no weight has changed.

    Raises: StopAgreedError, NotANumberError, UserError when something does not learn.
    """
    began = time.monotonic()
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
    run.position.step, run.position.loss = step.number, loss
    run.position.tokens += step.global_tokens
    report(run, step, update, rate, seconds=time.monotonic() - began)


def accumulate(run: Run, step: Step) -> float:
    """Forward and backward over this rank's micro-batches; returns the mean loss over the whole step's tokens."""
    engine, device = run.engine, run.world.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for index, micro in enumerate(step.micro_batches):
        stop_if_agreed(run)
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


def stop_if_agreed(run: Run) -> None:
    """Raise StopAgreedError on every rank once any of them has been told to stop."""
    if any_rank(run.world, run.stop.requested):
        raise StopAgreedError


def report(run: Run, step: Step, update: Update, rate: float, *, seconds: float) -> None:
    """Tell the world of a finished step."""
    run.times.add(seconds, step.global_tokens)
    per_second, median = run.times.tokens_per_second, run.times.median_seconds
    (peak_memory,) = maxima(run.world, [peak_memory_bytes(run.world.device)])
    device_flops = peak_flops(run.world.device)
    mfu = None
    if device_flops is not None and per_second is not None:
        mfu = per_second * run.flops_per_token / (device_flops * run.world.size)
    run.reporter.step_done(
        tokens=step.global_tokens, mfu=mfu, step=step.number, epoch=step.epoch, loss=run.position.loss,
        learning_rate=rate, grad_norm=update.grad_norm if update.applied else None, tokens_per_second=per_second,
        step_seconds=median, eta_seconds=None if median is None else median * (run.total_steps - step.number),
        peak_memory_bytes=int(peak_memory),
    )  # fmt: skip
    if not update.applied:
        log.warning("step=%d skipped: fp16 gradients overflowed, loss scale now %g", step.number,
                    run.engine.loss_scale.scale)  # fmt: skip


def validate(run: Run) -> None:
    """Mean loss over the supervised tokens of the validation split, if there is one."""
    micro_batches = validation_micro_batches(
        run.cache, micro_sequences=run.config.batch.micro_sequences, rank=run.world.rank, world_size=run.world.size
    )
    if micro_batches:
        run.reporter.enter(Stage.EVALUATING)
        run.engine.model.train(False)
        loss = validation_loss(run, micro_batches)
        run.engine.model.train()
        run.position.validation_loss = loss
        run.reporter.validated(loss)
    run.position.validated_step = run.position.step


@torch.no_grad()
def validation_loss(run: Run, micro_batches: Sequence[MicroBatch]) -> float:
    """All ranks have the same number of micro-batches, so that their collectives match."""
    total, tokens = 0.0, 0
    for micro in micro_batches:
        stop_if_agreed(run)
        with run.engine.precision():
            total += float(summed_loss(run.engine.module, micro.to(str(run.world.device)), run.world.device))
        tokens += len(micro.targets_S)
    total, all_tokens = sums(run.world, [total, tokens])
    return total / all_tokens


def save(run: Run) -> None:
    """A checkpoint of this step."""
    run.reporter.enter(Stage.SAVING)
    position, engine = run.position, run.engine
    state = checkpoint.TrainerState(
        step=position.step, updates=engine.updates, loss_scale=engine.loss_scale.scale,
        quiet_updates=engine.loss_scale.quiet_updates, tokens=position.tokens, loss=position.loss,
        validation_loss=position.validation_loss, validated_step=position.validated_step, settings=run.settings,
        fingerprint=checkpoint.fingerprint(run.settings), versions=checkpoint.versions(),
    )  # fmt: skip
    position.checkpoint = checkpoint.save(
        run.folder, state, engine.trained(), run.world, keep=run.config.checkpoint.keep
    )
    run.reporter.saved(position.checkpoint)


def exported(run: Run) -> tuple[Artifact, ...]:
    """What the run leaves behind, made from its last checkpoint and compared with the model in memory."""
    run.reporter.enter(Stage.EXPORTING)
    stop_if_agreed(run)
    assert run.position.checkpoint is not None, "the last step was saved"
    last = checkpoint.opened(Path(run.position.checkpoint.path))
    finished = export.Finished(
        config=run.config, last=last, logits_PV=export.prompt_logits(run.engine, run.world), dataset=run.cache.report
    )
    return export.exported(finished, run.world)


def preempted(run: Run) -> Outcome:
    """Save what was done since the last checkpoint; the part of a step that was under way is done again later."""
    position = run.position
    saved_step = 0 if position.checkpoint is None else position.checkpoint.step
    log.info("stopping at step=%d, saved step=%d", position.step, saved_step)
    if position.step > saved_step:
        save(run)
    loss = position.loss if position.step else None
    return Outcome(exit_code=ExitCode.PREEMPTED, checkpoint=position.checkpoint, step=position.step, loss=loss)


def done(run: Run, artifacts: tuple[Artifact, ...]) -> Outcome:
    """The outcome of a finished run."""
    position = run.position
    result = TrainingResult(
        steps=position.step, final_loss=position.loss, validation_loss=position.validation_loss,
        trained_tokens=position.tokens, artifacts=artifacts,
    )  # fmt: skip
    return Outcome(exit_code=ExitCode.DONE, result=result, checkpoint=position.checkpoint, step=position.step)
