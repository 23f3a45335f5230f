"""Between a run and its checkpoints: what is saved of it, and how it goes on from there."""

import logging
import math
from collections.abc import Callable

from finetune_contract import CheckpointReport, Stage
from finetune_trainer import checkpoint
from finetune_trainer.checkpoint import Retention
from finetune_trainer.distributed import on_main
from finetune_trainer.running import Run
from finetune_trainer.stopping import NEVER, Deadline, StopAgreedError

log = logging.getLogger("finetune")


def resume(run: Run) -> None:
    """Go on from the newest sound checkpoint, if there is one, with room for those that will follow."""
    if run.world.is_main:
        checkpoint.sweep(run.saver.folder, with_aside=False)
    saved = checkpoint.newest(run.folder, run.settings, run.shapes, run.world, stop=run.stop, disk=run.saver.disk)
    if saved is not None:
        take_up(run, saved)
    log.info("checkpoints: %s", on_main(run.world, lambda: room_for_the_rest(run)))


def take_up(run: Run, saved: checkpoint.Checkpoint) -> None:
    """Be where the run was when `saved` was taken."""
    run.engine.restore(saved)
    state, position = saved.state, run.position
    position.step, position.updates, position.tokens = state.step, state.updates, state.tokens
    position.loss, position.stability, position.evaluation = state.loss, state.stability, state.evaluation
    position.checkpoint = saved.report()
    run.reporter.update(
        step=state.step, loss=state.loss, resumed_from_step=state.step, checkpoint=position.checkpoint,
        validation_loss=state.evaluation.loss, best_validation_loss=state.evaluation.best_loss,
        best_step=state.evaluation.best_step,
        skipped_steps=state.stability.skipped_steps, interventions=state.stability.interventions,
    )  # fmt: skip
    log.info("resumed from %s: step=%d tokens=%d", saved.path, state.step, state.tokens)


def room_for_the_rest(run: Run) -> str:
    """Raises: UserError when the checkpoints to come have no room."""
    config = run.config
    steps_left = run.total_steps - run.position.step
    saves_left = math.ceil(steps_left / config.checkpoint.every_steps)
    if config.evaluation.keep_best and config.evaluation.every_steps is not None:  # each look may find a better one
        saves_left += math.ceil(steps_left / config.evaluation.every_steps)
    return checkpoint.check_room(
        run.saver.folder,
        checkpoint_bytes=run.saver.checkpoint_bytes,
        # an old one goes when a new one is complete; the best one and the two to roll back to come on top
        most=config.checkpoint.keep + 1 + config.evaluation.keep_best + 2 * (config.stability.divergence is not None),
        saves_left=saves_left,
    )


def retention(run: Run) -> Retention:
    """Which checkpoints stay once a new one is complete."""
    position, divergence = run.position, run.config.stability.divergence
    return Retention(
        keep=run.config.checkpoint.keep,
        best_step=position.evaluation.best_step if run.config.evaluation.keep_best else None,
        good_step=None if divergence is None else position.step - divergence.window_steps,
    )


def save(run: Run, deadline: Deadline = NEVER) -> None:
    """A checkpoint of the last step that was settled, none may be in flight; it is written beside the next ones.

    Waits for the save before. Without `checkpoint.asynchronous` it waits for this one too.
    Raises: StopAgreedError while it waits, AgreedError on every rank when one could not be written.
    """
    assert run.in_flight is None, "the weights are those of the position"
    run.reporter.enter(Stage.SAVING)
    if deadline is NEVER:
        finish(run)
    config, position, scale = run.config, run.position, run.engine.loss_scale.at_rest()
    state = checkpoint.TrainerState(
        step=position.step, updates=position.updates, loss_scale=scale.scale, quiet_updates=scale.quiet_updates,
        tokens=position.tokens, loss=position.loss, stability=position.stability, evaluation=position.evaluation,
        settings=run.settings, fingerprint=checkpoint.fingerprint(run.settings), versions=checkpoint.versions(),
    )  # fmt: skip
    run.saver.begin(state, run.engine.trained(), retention(run), deadline=deadline)
    if not config.checkpoint.asynchronous and deadline is NEVER:
        finish(run)


def collect(run: Run) -> None:
    """Note the save beside this step if it has ended; asked after every step, without waiting."""
    note(run, run.saver.ended())


def finish(run: Run) -> None:
    """Wait for the save that is under way, if there is one."""
    _wait(run, lambda: run.stop.requested)
    if run.saver.is_busy:
        raise StopAgreedError


def finish_before(run: Run, deadline: Deadline) -> bool:
    """The same within what is left of the grace; whether nothing is under way any more."""
    _wait(run, lambda: deadline.is_over)
    return not run.saver.is_busy


def _wait(run: Run, leave: Callable[[], bool]) -> None:
    note(run, run.saver.wait(leave))


def note(run: Run, report: CheckpointReport | None) -> None:
    """A checkpoint has become complete."""
    if report is not None:
        run.position.checkpoint = report
        run.reporter.saved(report)


def newest_step_saved(run: Run) -> int:
    """The step that the next attempt would go on from, as far as this one knows."""
    return 0 if run.position.checkpoint is None else run.position.checkpoint.step


def save_before_the_grace_is_over(run: Run) -> None:
    """After a stop: what was done since the last checkpoint, as far as there is time; what is lost is said."""
    position = run.position
    deadline = Deadline.of(run.world, run.stop, run.config.grace_seconds)
    log.info("stopping at step=%d, saved step=%d", position.step, newest_step_saved(run))
    if finish_before(run, deadline) and position.step > newest_step_saved(run):
        save(run, deadline)
        finish_before(run, deadline)
    if position.step > newest_step_saved(run):
        log.warning(
            "steps %d to %d are lost: they could not be saved in the %d seconds of grace",
            newest_step_saved(run) + 1, position.step, run.config.grace_seconds,
        )  # fmt: skip
