"""Between a run and its checkpoints: what is saved of it, and how it goes on from there."""

import logging

from finetune_contract import Stage
from finetune_trainer import checkpoint
from finetune_trainer.running import Run

log = logging.getLogger("finetune")


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
