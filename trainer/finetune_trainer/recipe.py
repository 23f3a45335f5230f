"""A whole run, read from top to bottom: load, resume, train, validate, save, export."""

import logging
import math
import socket
from pathlib import Path

from finetune_contract import (
    ActivationCheckpointing,
    Artifact,
    ExitCode,
    Outcome,
    RunConfig,
    Stage,
    Steps,
    TrainingResult,
)
from finetune_trainer import checkpoint, export, methods, strategies
from finetune_trainer.checkpoint import Disk, Saver
from finetune_trainer.data.loader import TokenCache, open_tokens, run_steps, training_steps
from finetune_trainer.distributed import Question, World, from_all
from finetune_trainer.evaluation import is_best, is_exhausted
from finetune_trainer.measuring.flops import count
from finetune_trainer.measuring.hardware import device_peak_flops
from finetune_trainer.measuring.meter import Meter
from finetune_trainer.measuring.noise_scale import NoiseScale, advice
from finetune_trainer.measuring.readings import Machine
from finetune_trainer.model import WeightFiles, load_config, recompute_activations, skeleton, trained_parameters
from finetune_trainer.optim import treatments
from finetune_trainer.reporting import Reporter
from finetune_trainer.rollback import give_up, keep_stable, roll_back_as_owed
from finetune_trainer.running import Position, Run, stop_now_if_agreed
from finetune_trainer.saving import collect, finish, resume, save, save_before_the_grace_is_over
from finetune_trainer.stability import GiveUp
from finetune_trainer.stepping import queue_step, report_experts, settle
from finetune_trainer.stopping import Stop, StopAgreedError, heeding, stop_if_told
from finetune_trainer.validation import validate

log = logging.getLogger("finetune")


def run(config: RunConfig, world: World, stop: Stop, position: Position, disk: Disk | None = None) -> Outcome:
    """Everything an attempt does; returns DONE or PREEMPTED, raises for every other end.

    `position` is kept up to date, so that the caller knows how far a run came that raised. Checkpoints and artifacts
    go to `disk`.
    """
    disk = disk or Disk()
    checkpoint.check_shared(Path(config.output_dir), world, disk)
    cache = open_tokens(config.tokens_dir)
    steps = run_steps(cache, batch=config.batch, epochs=config.epochs, max_steps=config.max_steps)
    hosts = from_all(world, socket.gethostname())
    with Reporter(config, steps.total, active=world.is_main, hosts=hosts) as reporter:
        try:
            run = load(config, world, stop, position, reporter, cache, steps, disk)
        except StopAgreedError:
            return Outcome(exit_code=ExitCode.PREEMPTED)  # no step was done that could be lost
        try:
            resume(run)
            train(run)
            exporting = checkpoint_to_export(run)
            artifacts = exported(run, exporting)
        except StopAgreedError:
            return preempted(run)
        reporter.enter(Stage.DONE)
        return done(run, exporting, artifacts)


def load(
    config: RunConfig,
    world: World,
    stop: Stop,
    position: Position,
    reporter: Reporter,
    cache: TokenCache,
    steps: Steps,
    disk: Disk,
) -> Run:
    """The model with what is trained of it, spread over the ranks."""
    _log_plan(config, cache, steps)
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
    shapes = {name: tuple(parameter.shape) for name, parameter in trained_parameters(adapted)}
    initial = heeding(method.initial_values(config.method, files, config.seed), lambda: stop_if_told(world, stop))
    treated = treatments(adapted, method.rate_factors(adapted, config.method))
    engine = strategies.chosen(config).prepare(adapted, initial, config, world, treated)
    settings = checkpoint.settings_of(
        config, model_digest=checkpoint.model_digest(config.model_dir), dataset=cache.report
    )
    return Run(
        config=config, world=world, stop=stop, position=position, reporter=reporter, cache=cache,
        steps=steps, engine=engine, initial=initial, settings=settings,
        meter=Meter(
            world, machine, config.parallelism, NoiseScale(config.optimizer.beta1, config.batch.global_sequences)
        ),
        question=Question(world), shapes=shapes,
        saver=Saver(
            Path(config.output_dir), world, checkpoint_bytes=12 * sum(map(math.prod, shapes.values())),
            asynchronous=config.checkpoint.asynchronous, disk=disk,
        ),
    )  # fmt: skip


def _log_plan(config: RunConfig, cache: TokenCache, steps: Steps) -> None:
    batch = config.batch
    log.info(
        "batch: %d sequences x %d ranks x %d accumulation = %d sequences per step (on average %d tokens)",
        batch.micro_sequences, batch.world_size, batch.accumulation_steps, batch.global_sequences,
        cache.report.tokens * batch.global_sequences // max(cache.report.sequences, 1),
    )  # fmt: skip
    log.info(
        "steps: %d sequences / %d per step x %g epochs%s = %d steps",
        cache.report.sequences, batch.global_sequences, config.epochs,
        "" if config.max_steps is None else f", at most {config.max_steps}", steps.total,
    )  # fmt: skip
    if batch.ramp is not None:
        log.info("batch grows: %s sequences per step, whole from step %d on", list(batch.sizes), steps.whole_from)


def train(run: Run) -> None:
    """The remaining steps, with looks at the held-out rows and checkpoints between them and after the last."""
    config = run.config
    catch_up(run)
    remaining = training_steps(
        run.cache, batch=config.batch, epochs=config.epochs, max_steps=config.max_steps, seed=config.seed,
        rank=run.world.rank, first_step=run.position.step + 1,
    )  # fmt: skip
    if is_exhausted(run.position.evaluation, config.evaluation):
        remaining = iter(())
    for step in run.meter.waiting_for(remaining, lambda: run.in_flight is None or run.in_flight.readback.is_ready):
        run.reporter.enter(Stage.TRAINING)
        queued = queue_step(run, step)
        settle(run)  # the step before, which is done by now
        run.in_flight = queued
        report_experts(run, step.number)
        collect(run)
        keep_stable(run)
        pause(run, step.number)
        if is_exhausted(run.position.evaluation, config.evaluation):
            log.info("stopping early: no gain in %d looks at the held-out rows", config.evaluation.patience)
            break
    tell_noise_scale(run)
    if run.position.updates == 0:
        give_up(run, GiveUp("no step had a finite loss and gradient norm", is_divergence=False))


def tell_noise_scale(run: Run) -> None:
    """What the gradients' noise says of the batch, for the next run."""
    scale = run.meter.noise.scale_sequences
    if scale is not None:
        log.info("gradient noise scale: %s", advice(scale, run.config.batch.global_sequences))


def catch_up(run: Run) -> None:
    """What the last attempt was stopped before: going back, or the look at the held-out rows."""
    roll_back_as_owed(run)
    step = run.position.step
    if run.position.evaluation.step < step and looks_after(run, step):
        validate(run)


def looks_after(run: Run, number: int) -> bool:
    """Whether the held-out rows are looked at after step `number`."""
    every_steps = run.config.evaluation.every_steps or run.config.checkpoint.every_steps
    return number == run.total_steps or number % every_steps == 0


def pause(run: Run, number: int) -> None:
    """What stands between step `number` and the next: a validation, a checkpoint, both or nothing."""
    evaluation, is_last = run.config.evaluation, number == run.total_steps
    looks = looks_after(run, number)
    saves = is_last or number % run.config.checkpoint.every_steps == 0
    if looks or saves:
        settle(run)
    if is_last:
        keep_stable(run)
    if looks:
        validate(run)
        ends = is_exhausted(run.position.evaluation, evaluation)
        saves = saves or ends or (evaluation.keep_best and is_best(run.position.evaluation))
    if saves:
        save(run)


def exported(run: Run, saved: checkpoint.Checkpoint) -> tuple[Artifact, ...]:
    """What the run leaves behind, made from a checkpoint and compared with the model in memory."""
    ids = export.prompt_ids(run.cache.training)
    logits_PV = export.prompt_logits(run.engine, run.world, ids)
    if not bool(logits_PV.isfinite().all()):
        give_up(run, GiveUp("what the trained model answers is not finite", is_divergence=False))
    export.check_saved(run.engine, saved, run.world)
    finished = export.Finished(
        config=run.config, last=saved, ids=ids, logits_PV=logits_PV, dataset=run.cache.report, disk=run.saver.disk
    )
    return export.exported(finished, run.world, run.stop)


def checkpoint_to_export(run: Run) -> checkpoint.Checkpoint:
    """The last one, or the best one, which the model in memory is then taken back to."""
    finish(run)
    run.reporter.enter(Stage.EXPORTING)
    stop_now_if_agreed(run)
    position, best_step = run.position, run.position.evaluation.best_step
    assert position.checkpoint is not None, "the last step was saved"
    last = checkpoint.opened(Path(position.checkpoint.path))
    if not run.config.evaluation.load_best or best_step in (None, last.state.step):
        return last
    best = checkpoint.newest(run.folder, run.settings, run.shapes, run.world, stop=run.stop, not_after=best_step)
    if best is None or best.state.step != best_step:
        log.warning("checkpoint of step %s, the best one, is gone: the last one is exported", best_step)
        return last
    run.engine.restore(best)
    log.info("exporting the best checkpoint: step=%d validation_loss=%.4f", best_step, position.evaluation.best_loss)
    return checkpoint.opened(best.path)  # reading `best` asks all ranks whether to stop, and rank 0 reads on alone


def preempted(run: Run) -> Outcome:
    """Save what was done since the last checkpoint; the part of a step that was under way is done again later."""
    settle(run)
    save_before_the_grace_is_over(run)
    position = run.position
    return Outcome(
        exit_code=ExitCode.PREEMPTED, checkpoint=position.checkpoint, step=position.step, loss=position.loss,
        interventions=position.stability.interventions,
    )  # fmt: skip


def done(run: Run, exported: checkpoint.Checkpoint, artifacts: tuple[Artifact, ...]) -> Outcome:
    """The outcome of a finished run."""
    position, evaluation = run.position, run.position.evaluation
    assert position.loss is not None, "a step was applied"
    # not from the checkpoint: one that was saved as the run was stopped is looked at by the next attempt
    exports_best = exported.state.step == evaluation.best_step
    result = TrainingResult(
        steps=position.step, final_loss=position.loss,
        validation_loss=evaluation.best_loss if exports_best else evaluation.loss,
        best_validation_loss=evaluation.best_loss, best_step=evaluation.best_step,
        skipped_steps=position.stability.skipped_steps,
        trained_tokens=position.tokens, stopped_early=position.step < run.total_steps,
        artifacts_step=exported.state.step, artifacts=artifacts,
    )  # fmt: skip
    return Outcome(
        exit_code=ExitCode.DONE, result=result, checkpoint=position.checkpoint, step=position.step,
        interventions=position.stability.interventions,
    )  # fmt: skip
