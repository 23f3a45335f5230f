"""The loss of a micro-batch, as a sum: what it is divided by is known only for the whole step.

Shape letters: T tokens of a micro-batch, S supervised ones, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune_trainer.attention import Documents
from finetune_trainer.data.batch import MicroBatch


def summed_loss(model: nn.Module, micro: MicroBatch, device: torch.device) -> Tensor:
    """Cross-entropy summed over the supervised positions, in fp32; 0 with a graph when there are none.

    Divided by Step.global_supervised_tokens and added up over micro-batches and ranks it is the mean that one process
    with the whole batch would compute, however the batch is cut.
    """
    logits_SV = supervised_logits(model, micro, device)
    return cross_entropy(logits_SV.float(), micro.targets_S, reduction="sum")


def poisoned(loss: Tensor) -> Tensor:
    """`loss`, such that one that is not finite has gradients that are not either.

    The cross-entropy of a target with probability zero is infinite and its gradient is not. Poisoned, the global
    gradient norm alone tells every rank that the step is no good, whichever rank it began on.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def supervised_logits(model: nn.Module, micro: MicroBatch, device: torch.device) -> Tensor:
    """Logits at the supervised positions alone, [S, V]: the rest of T never reaches the output head."""
    output = model(
        input_ids=micro.input_ids_1T,
        position_ids=micro.position_ids_1T,
        documents=documents_of(micro, device),
        logits_to_keep=micro.supervised_S,
        use_cache=False,
    )
    logits_SV: Tensor = output.logits[0]
    return logits_SV


def documents_of(micro: MicroBatch, device: torch.device) -> Documents:
    """Where the documents begin, made once per micro-batch and handed to every layer."""
    offsets_N1 = torch.tensor(micro.document_offsets, dtype=torch.int32).to(device, non_blocking=True)
    return Documents(micro.document_offsets, offsets_N1, micro.longest_document)
