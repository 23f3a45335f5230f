"""A whole run, read from top to bottom: load, resume, train, validate, save, export."""

import logging
from pathlib import Path

from finetune_contract import ActivationCheckpointing, Artifact, ExitCode, Outcome, RunConfig, Stage, TrainingResult
from finetune_trainer import checkpoint, export, methods, strategies
from finetune_trainer.data.loader import TokenCache, open_tokens, total_steps, training_steps
from finetune_trainer.distributed import World
from finetune_trainer.measuring.flops import count
from finetune_trainer.measuring.hardware import device_peak_flops
from finetune_trainer.measuring.meter import Meter
from finetune_trainer.measuring.readings import Machine
from finetune_trainer.model import WeightFiles, load_config, recompute_activations, skeleton
from finetune_trainer.optim import treatments
from finetune_trainer.reporting import Reporter
from finetune_trainer.running import Position, Run, Stop, StopAgreedError, stop_if_agreed
from finetune_trainer.saving import resume, save
from finetune_trainer.stepping import train_step
from finetune_trainer.validation import validate

log = logging.getLogger("finetune")


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
    recomputes = config.activation_checkpointing is ActivationCheckpointing.FULL
    flops = count(adapted, recomputes=recomputes)  # before the strategy cuts the weights
    machine = Machine(flops=flops, peak_flops=device_peak_flops(world.device))
    initial = method.initial_values(config.method, files, config.seed)
    treated = treatments(adapted, method.rate_factors(adapted, config.method))
    engine = strategies.chosen(config).prepare(adapted, initial, config, world, treated)
    settings = checkpoint.settings_of(
        config, model_digest=checkpoint.model_digest(config.model_dir), tokens_digest=cache.report.digest
    )
    return Run(
        config=config, world=world, stop=stop, position=position, reporter=reporter, cache=cache,
        total_steps=total_steps, engine=engine, settings=settings,
        meter=Meter(world, machine, config.parallelism),
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


def train(run: Run) -> None:
    """The remaining steps, with validation and a checkpoint every so many of them and after the last."""
    config = run.config
    first_step = run.position.step + 1
    steps = training_steps(
        run.cache, batch=config.batch, epochs=config.epochs, max_steps=config.max_steps, seed=config.seed,
        rank=run.world.rank, first_step=first_step,
    )  # fmt: skip
    for step in run.meter.waiting_for(steps, lambda: True):
        run.reporter.enter(Stage.TRAINING)
        train_step(run, step, is_first=step.number == first_step)
        if step.number % config.checkpoint.every_steps == 0 or step.number == run.total_steps:
            validate(run)
            save(run)
    if run.position.validated_step < run.total_steps:  # stopped between the last step and its validation
        validate(run)


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
