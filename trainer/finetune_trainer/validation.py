"""The loss on rows that are not trained on."""

from collections.abc import Sequence

import torch

from finetune_contract import Stage
from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.data.loader import validation_micro_batches
from finetune_trainer.distributed import sums
from finetune_trainer.evaluation import looked
from finetune_trainer.loss import summed_loss
from finetune_trainer.running import Run, stop_if_agreed


def validate(run: Run) -> None:
    """Mean loss over the supervised tokens of the validation split, if there is one."""
    micro_batches = validation_micro_batches(
        run.cache, micro_sequences=run.config.batch.micro_sequences, rank=run.world.rank, world_size=run.world.size
    )
    position = run.position
    if not micro_batches:
        position.evaluation = position.evaluation.model_copy(update={"step": position.step})
        return
    run.reporter.enter(Stage.EVALUATING)
    run.engine.model.train(False)
    loss = validation_loss(run, micro_batches)
    run.engine.model.train()
    position.evaluation = looked(position.evaluation, run.config.evaluation, step=position.step, loss=loss)
    run.reporter.validated(loss, best=position.evaluation.best_loss, best_step=position.evaluation.best_step)


@torch.no_grad()
def validation_loss(run: Run, micro_batches: Sequence[MicroBatch]) -> float:
    """All ranks have the same number of micro-batches, so that their collectives match."""
    total = torch.zeros((), dtype=torch.float64, device=run.world.device)
    tokens = 0
    for micro in micro_batches:
        stop_if_agreed(run)
        with run.engine.precision():
            total += summed_loss(run.engine.module, micro.to(str(run.world.device)), run.world.device).double()
        tokens += len(micro.targets_S)
    loss, all_tokens = sums(run.world, [float(total), tokens])
    return loss / all_tokens
