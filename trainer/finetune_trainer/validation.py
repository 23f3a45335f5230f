"""The loss on rows that are not trained on."""

from collections.abc import Sequence

import torch

from finetune_contract import Stage
from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.data.loader import validation_micro_batches
from finetune_trainer.distributed import sums
from finetune_trainer.loss import summed_loss
from finetune_trainer.running import Run, stop_if_agreed


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
        run.reporter.validated(loss, best=None)
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
