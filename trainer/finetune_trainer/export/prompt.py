"""What the model in training says of itself before it is gone: its answer to a prompt, and that its weights were saved.

Shape letters: P tokens of the prompt, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune_trainer.checkpoint import Checkpoint
from finetune_trainer.data.batch import MicroBatch
from finetune_trainer.data.cache import Split
from finetune_trainer.distributed import World, on_main
from finetune_trainer.export.weights import ExportMismatchError
from finetune_trainer.loss import supervised_logits
from finetune_trainer.model import ALL_ROWS
from finetune_trainer.strategies import Engine

PROMPT_TOKENS = 48


def prompt_ids(split: Split) -> tuple[int, ...]:
    """The beginning of the first training document: where an adapter has something to say."""
    begin, end = split.documents[:2]
    return tuple(int(each) for each in split.input_ids[begin : min(end, begin + PROMPT_TOKENS)])


@torch.no_grad()
def prompt_logits(engine: Engine, world: World, ids: Sequence[int]) -> Tensor:
    """Logits [P, V] of the model in training for the prompt, fp32; all ranks take part."""
    ids_P = torch.tensor(ids)
    micro = MicroBatch(
        input_ids_1T=ids_P[None], position_ids_1T=torch.arange(len(ids_P))[None], document_offsets=(0, len(ids_P)),
        longest_document=len(ids_P), supervised_S=torch.arange(len(ids_P)), targets_S=torch.zeros_like(ids_P),
    ).to(str(world.device))  # fmt: skip
    engine.model.train(False)
    with engine.precision():
        logits_PV = supervised_logits(engine.module, micro, world.device)
    engine.model.train()
    return logits_PV.float().cpu()


def check_saved(engine: Engine, last: Checkpoint, world: World) -> None:
    """Every trained weight in memory is in the checkpoint, bit for bit; all ranks take part in bringing them together.

    Raises: AgreedError on every rank when it is not so.
    """
    unlike, count = [], 0
    for each in engine.trained():
        count += 1
        if world.is_main and not torch.equal(each.weight.cpu(), last.weight(each.name, ALL_ROWS)):
            unlike.append(each.name)

    def judged() -> str:
        if unlike or count != len(last.names):
            raise ExportMismatchError(
                f"checkpoint {last.path} is not what was trained: {count} parameters in memory, {len(last.names)} "
                f"saved, {len(unlike)} differ {unlike[:3]}"
            )
        return ""

    on_main(world, judged)
